"""What the provider for btrfs promises beyond the contract: its layout, its home, deep trees."""

import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Foreign, Image, Mark, Nested, SetState, Volume, Whose
from samba_rvss.providers import Provider
from samba_rvss.providers.btrfs import ioctl
from samba_rvss.providers.btrfs.home import NAME as HOME
from samba_rvss.providers.btrfs.marks import MARK
from samba_rvss.providers.btrfs.parts import PLACE, image_of
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.providers.homes import Homes
from samba_rvss.run import run
from samba_rvss.testing.waiting import wait_until
from tests.imaging import make_image, take_image
from tests.kernel.conftest import SEALED, BtrfsStorage
from tests.kernel.test_provider import mark_of, portrait, probe, seen, take

pytestmark = [
    pytest.mark.require("root", "btrfs", "loop"),
    pytest.mark.parametrize("storage", ["btrfs"], indirect=True),
]

STEPS = ("seal.snapshot", "seal.renamed", "seal.marked")


def write(path: Path, text: str) -> None:
    """Write a file anew, as recovery would."""
    path.write_text(text)


def only(provider: Provider) -> Image:
    """Return the only image."""
    (found,) = provider.inventory().images
    return found


def foreign(storage: BtrfsStorage, provider: Provider) -> list[Foreign]:
    """Return the images on the test's file system that are not ours."""
    with files.opened(os.open(storage.top, files.DIRECTORY)) as fd:
        here, _ = ioctl.file_system(fd)
    return [image for image in provider.inventory().foreign if image.file_system == here]


def alien(storage: BtrfsStorage, provider: Provider) -> Foreign:
    """Return the only image that is not ours, where none is."""
    assert provider.inventory().images == ()
    (found,) = foreign(storage, provider)
    return found


def refused(action: Callable[..., object], *arguments: object) -> RvssError:
    """Call something that must fail; return the error."""
    with pytest.raises(RvssError) as caught:
        action(*arguments)
    return caught.value


def in_home(storage: BtrfsStorage) -> list[str]:
    """Return the names of everything in the home but the marks."""
    return sorted(set(os.listdir(storage.top / HOME)) - {PLACE})


def a_share(storage: BtrfsStorage) -> Path:
    """Return a volume with a nested one inside; each has a file."""
    share = storage.volume("vms")
    storage.volume("vms/inner")
    write(share / "file", "content")
    write(share / "inner" / "file", "inner content")
    return share


def recovered(storage: BtrfsStorage) -> Mark:
    """Take an image of such a share and write to it."""
    mark = take(storage.provider, a_share(storage), Nested.INCLUDE)
    with seen(storage.provider, mark, writable=True) as image:
        write(image / "file", "recovered")
        write(image / "inner" / "file", "inner recovered")
    return mark


def assert_recovered(provider: Provider, mark: Mark) -> None:
    """See that an image has what recovery wrote, and cannot be written to."""
    with seen(provider, mark, writable=True) as image:
        assert (image / "file").read_text() == "recovered"
        assert (image / "inner" / "file").read_text() == "inner recovered"
        for name in ("file", "inner/file"):
            with pytest.raises(OSError, match="Read-only"):
                (image / name).open("r+")


def tree_of(path: Path) -> int:
    """Return the id of the subvolume at a path."""
    with files.opened(os.open(path, files.DIRECTORY)) as fd:
        return ioctl.info(fd).tree


def uuid_of(path: Path) -> str:
    """Return the uuid of the subvolume at a path."""
    with files.opened(os.open(path, files.DIRECTORY)) as fd:
        return ioctl.info(fd).uuid


# the layout


def test_parts_are_side_by_side_and_named_for_btrbk(storage: BtrfsStorage) -> None:
    share = a_share(storage)
    volume = probe(storage.provider, share, Nested.INCLUDE)
    mark = replace(mark_of(volume, share, Nested.INCLUDE), id="20240229T235959Z-0000002a")
    make_image(storage.provider, mark)
    final = f"vms-{tree_of(share)}.20240229T235959Z_42"
    assert in_home(storage) == [f"{final}.rw", f"{final}.rw1"]
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert only(storage.provider).remnants
    for _ in range(2):
        storage.provider.clear(mark.volume, mark.id)
        inner = f"inner-{tree_of(share / 'inner')}.20240229T235959Z_42"
        assert in_home(storage) == [inner, final]
        assert not only(storage.provider).remnants


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("a b%ü\n", "a_b____"),
        (".hidden", "_hidden"),
        ("-option", "_option"),
        ("n" * 255, "n" * 180),
    ],
)
def test_any_name_makes_one_for_btrbk(storage: BtrfsStorage, name: str, base: str) -> None:
    mark = take(storage.provider, storage.volume(name))
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    storage.provider.clear(mark.volume, mark.id)
    (part,) = in_home(storage)
    assert part.rpartition("-")[0] == base
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_more_nested_volumes_than_a_mark_can_name_are_refused(storage: BtrfsStorage) -> None:
    share = storage.volume("vms")
    for number in range(40):  # the rig's nodes have 4 KiB
        storage.volume(f"vms/{number}-with-a-long-name")
    mark = mark_of(probe(storage.provider, share, Nested.INCLUDE), share, Nested.INCLUDE)
    error = refused(take_image, storage.provider, mark)
    assert error.problem is Problem.NOT_SUPPORTED
    assert "41 subvolumes" in error.message
    assert storage.names() == []


# sealing


def test_what_is_open_and_mapped_does_not_reach_the_sealed_image(storage: BtrfsStorage) -> None:
    mark = recovered(storage)
    with seen(storage.provider, mark, writable=True) as image:
        with (image / "file").open("r+b", buffering=0) as file:
            mapping = mmap.mmap(file.fileno(), 9)
        with (
            (image / "inner" / "file").open("r+b", buffering=0) as writer,
            files.opened(os.open(image, files.DIRECTORY)) as directory,
            mapping,
        ):
            storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
            with seen(storage.provider, mark) as sealed:
                before = portrait(sealed)
            mapping[0:9] = b"TOO LATE."
            mapping.flush()
            writer.write(b"TOO LATE")
            os.fsync(writer.fileno())
            os.mkdir("TOO LATE", dir_fd=directory)
    os.sync()
    assert_recovered(storage.provider, mark)
    with seen(storage.provider, mark) as sealed:
        assert portrait(sealed) == before
    storage.provider.clear(mark.volume, mark.id)
    assert_recovered(storage.provider, mark)


def seal_and_die(storage: BtrfsStorage, mark: Mark, step: str, *, opened: bool = True) -> None:
    """Seal in a process that is killed at a step."""

    def die(point: str) -> None:
        if point == step:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            dying = Btrfs(storage.identity, reached=die)
            dying.seal(mark.volume, mark.id, SEALED, opened=opened)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def finish_sealing(provider: Provider, mark: Mark, step: str) -> None:
    """See what a sealing that was cut off at a step has left, and that it can be finished."""
    found = only(provider)
    done = SEALED if step == "seal.marked" else None
    assert (found.complete, found.read_only, found.mark.sealed) == (True, bool(done), done)
    assert found.remnants == bool(done)
    if done:
        assert_recovered(provider, mark)
    else:
        with seen(provider, mark, writable=True) as image:
            write(image / "file", "recovered")
    provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert_recovered(provider, mark)
    found = only(provider)
    assert (found.complete, found.read_only, found.mark.sealed) == (True, True, SEALED)
    provider.clear(mark.volume, mark.id)
    assert_recovered(provider, mark)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("destroy", [False, True])
def test_killed_while_sealing(storage: BtrfsStorage, step: str, *, destroy: bool) -> None:
    mark = recovered(storage)
    seal_and_die(storage, mark, step)
    if not destroy:
        finish_sealing(storage.provider, mark, step)
        assert len(in_home(storage)) == 2
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == in_home(storage) == []


@pytest.mark.parametrize("step", ["seal.renamed", "seal.marked"])
def test_killed_while_sealing_what_was_never_open(storage: BtrfsStorage, step: str) -> None:
    """Its parts become the sealed ones, under their own names."""
    mark = take(storage.provider, a_share(storage), Nested.INCLUDE)
    uuids = {uuid_of(storage.top / HOME / name) for name in in_home(storage)}
    seal_and_die(storage, mark, step, opened=False)
    assert only(storage.provider).complete
    assert (only(storage.provider).mark.sealed is None) == (step == "seal.renamed")
    assert not storage.provider.seal(mark.volume, mark.id, SEALED, opened=False)
    storage.provider.clear(mark.volume, mark.id)
    found = only(storage.provider)
    assert (found.complete, found.read_only, found.remnants) == (True, True, False)
    assert not any(name.endswith((".rw", ".rw1")) for name in in_home(storage))
    assert {uuid_of(storage.top / HOME / name) for name in in_home(storage)} == uuids
    storage.provider.destroy(mark.volume, mark.id)
    assert in_home(storage) == storage.names() == []


@contextmanager
def mounted_copy(image: Path, target: Path) -> Iterator[Path]:
    """Mount a copy of a device; the device itself must not be mounted."""
    target.mkdir()
    run(["mount", "-o", "loop", str(image), str(target)], timeout=60)
    try:
        yield target
    finally:
        run(["umount", str(target)], timeout=60)


def test_power_lost_after_create_and_destroy(storage: BtrfsStorage, rig_directory: Path) -> None:
    """What was made has its mark, and no mark goes before its image."""
    copies = [rig_directory / name for name in ("created", "destroyed")]
    mark = take(storage.provider, a_share(storage), Nested.INCLUDE)
    run(["cp", "--sparse=always", str(storage.fs.image), str(copies[0])], timeout=60)
    storage.provider.destroy(mark.volume, mark.id)
    run(["cp", "--sparse=always", str(storage.fs.image), str(copies[1])], timeout=60)
    storage.take_away()
    with mounted_copy(copies[0], rig_directory / "mounted") as top:
        found = only(storage.provider)
        assert (found.mark, found.complete, found.read_only) == (mark, True, False)
        with seen(storage.provider, mark) as image:
            assert (image / "inner" / "file").read_text() == "inner content"
        assert not storage.provider.seal(mark.volume, mark.id, SEALED, opened=False)
        assert only(storage.provider).complete
        assert not only(storage.provider).remnants
        assert os.listdir(top / HOME / PLACE / mark.id) == []
        assert sorted(map(image_of, os.listdir(top / HOME))) == ["", mark.id, mark.id]
        storage.provider.destroy(mark.volume, mark.id)
        assert os.listdir(top / HOME) == [PLACE]
    (rig_directory / "mounted").rmdir()
    with mounted_copy(copies[1], rig_directory / "mounted") as top:
        assert os.listdir(top / HOME) == [PLACE]
        storage.provider.destroy(mark.volume, mark.id)
        assert os.listdir(top / HOME / PLACE) == []


def test_power_lost_while_sealing(storage: BtrfsStorage, rig_directory: Path) -> None:
    mark = recovered(storage)
    copies = {step: rig_directory / step for step in STEPS}

    def reached(step: str) -> None:
        run(["cp", "--sparse=always", str(storage.fs.image), str(copies[step])], timeout=60)

    Btrfs(storage.identity, reached=reached).seal(mark.volume, mark.id, SEALED, opened=True)
    storage.take_away()
    for step, copy in copies.items():
        with mounted_copy(copy, rig_directory / "mounted") as top:
            provider = Btrfs(storage.identity)
            finish_sealing(provider, mark, step)
            provider.destroy(mark.volume, mark.id)
            assert provider.inventory().images == ()
            assert os.listdir(top / HOME) == [PLACE]
        (rig_directory / "mounted").rmdir()


def test_power_lost_after_claiming(storage: BtrfsStorage, rig_directory: Path) -> None:
    """It is durable, and has written out nobody else's data: a client may wait for its turn."""
    mark = recovered(storage)
    early = replace(SEALED, state=SetState.COMMITTED)
    storage.provider.seal(mark.volume, mark.id, early, opened=True)
    busy = storage.volume("busy")
    storage.sync()
    write(busy / "file", "somebody else's")
    storage.provider.claim(replace(mark, sealed=SEALED))
    copy = rig_directory / "copy"
    run(["cp", "--sparse=always", str(storage.fs.image), str(copy)], timeout=60)
    storage.take_away()
    with mounted_copy(copy, rig_directory / "mounted") as top:
        found = only(storage.provider)
        assert (found.mark.sealed, found.complete, found.read_only) == (SEALED, True, True)
        assert_recovered(storage.provider, mark)
        assert os.listdir(top / "busy") == []
    (rig_directory / "mounted").rmdir()


def test_a_rename_that_was_lost_is_finished(storage: BtrfsStorage) -> None:
    mark = recovered(storage)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    storage.provider.clear(mark.volume, mark.id)
    for name in (names := in_home(storage)):
        (storage.top / HOME / name).rename(storage.top / HOME / f".{name}")
    assert only(storage.provider).complete
    assert_recovered(storage.provider, mark)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert in_home(storage) == names


@pytest.mark.parametrize("how", ["quota", "full"])
def test_no_room_to_seal(storage: BtrfsStorage, how: str) -> None:
    """It becomes read-only, is never called sealed, and can be sealed when there is room."""
    mark = recovered(storage)
    if how == "quota":
        storage.limit()
    else:
        storage.fill()
        spare = []
        while True:  # use up what is left for metadata
            other = mark_of(mark.volume, Path(mark.share_path), Nested.INCLUDE)
            try:
                make_image(storage.provider, other)
            except RvssError:
                break
            spare.append(other)
    for _ in range(2):
        error = refused(lambda: storage.provider.seal(mark.volume, mark.id, SEALED, opened=True))
        assert error.problem is Problem.NOT_SEALED
        # The rig's file system has no room for anything that is not data, unlike most.
        read_only = how == "quota" or "read-only either" not in error.message
        words = "is read-only, but handles" if read_only else "cannot be sealed, and not made"
        assert f"the image {mark.id} {words}" in error.message
        (found,) = [i for i in storage.provider.inventory().images if i.id == mark.id]
        assert (found.read_only, found.mark.sealed, found.remnants) == (read_only, None, False)
    if how == "quota":
        storage.unlimit()
    else:
        for other in spare:
            storage.provider.destroy(other.volume, other.id)
        (storage.top / "filler").unlink()
        storage.sync()
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert only(storage.provider).mark.sealed == SEALED
    assert_recovered(storage.provider, mark)


_WITHOUT = """
import sys
from samba_rvss.model import Identity
from samba_rvss.providers.btrfs.provider import Btrfs
from tests.kernel.conftest import SEALED
from tests.kernel.test_provider import take, Nested, os
from pathlib import Path
os.umask(0o077)
provider = Btrfs(Identity(id=sys.argv[2]))
mark = take(provider, Path(sys.argv[1]), Nested.INCLUDE)
assert provider.seal(mark.volume, mark.id, SEALED, opened=True)
provider.clear(mark.volume, mark.id)
for _, fd in provider.open(mark.volume, mark.id):
    os.close(fd)
(found,) = provider.inventory().images
assert (found.complete, found.read_only) == (True, True)
provider.destroy(mark.volume, mark.id)
assert provider.inventory().images == ()
"""


def test_without_the_capability_for_file_handles(storage: BtrfsStorage) -> None:
    """As in a container, which has few capabilities unless it is given more."""
    words = ["setpriv", "--bounding-set=-dac_read_search", sys.executable, "-c", _WITHOUT]
    words += [str(a_share(storage)), storage.identity.id]
    subprocess.run(words, check=True, timeout=60, cwd=Path(__file__).parents[2])
    assert storage.names() == []


_UNPRIVILEGED = """
import sys
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Identity, Nested, Volume
from samba_rvss.providers.btrfs.provider import Btrfs

file_system, instance, image = sys.argv[1:]
volume = Volume(
    provider="btrfs", file_system=file_system, id="1", name="", directory="", inode=256
)
try:
    Btrfs(Identity(id=instance)).destroy(volume, image)
except RvssError as exc:
    assert exc.problem is Problem.SYSTEM, exc
    assert "permitted" in exc.message and "CAP_SYS_ADMIN" in exc.hint, exc
    assert "in use" not in str(exc) and "btrfs send" not in str(exc), exc
else:
    raise AssertionError("it was permitted")
"""


def test_what_is_not_permitted_is_not_in_use(storage: BtrfsStorage) -> None:
    """EPERM has many causes; as in a container without the capability, or without the device."""
    mark = take(storage.provider, a_share(storage), Nested.INCLUDE)
    words = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", _UNPRIVILEGED]
    words += [mark.volume.file_system, storage.identity.id, mark.id]
    subprocess.run(words, check=True, timeout=60, cwd=Path(__file__).parents[2])
    assert [image.id for image in storage.provider.inventory().images] == [mark.id]


def test_who_sends_an_image_is_named(storage: BtrfsStorage) -> None:
    share = storage.volume("vms")
    (share / "file").write_bytes(os.urandom(1 << 20))
    mark = take(storage.provider, share)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=False)
    part = storage.top / HOME / in_home(storage)[0]
    words = ["btrfs", "send", str(part)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sender:
        try:
            assert sender.stdout is not None
            sender.stdout.read(1000)
            error = refused(storage.provider.destroy, mark.volume, mark.id)
        finally:
            sender.kill()
    assert error.problem is Problem.BUSY
    assert f"btrfs (pid {sender.pid}) has {part} open" in error.message
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_a_default_subvolume_is_not_called_busy_with_a_send(storage: BtrfsStorage) -> None:
    mark = take(storage.provider, storage.volume("vms"))
    part = storage.top / HOME / in_home(storage)[0]
    run(["btrfs", "subvolume", "set-default", str(part)], timeout=30)
    error = refused(storage.provider.destroy, mark.volume, mark.id)
    run(["btrfs", "subvolume", "set-default", "5", str(storage.top)], timeout=30)
    assert "default subvolume" in error.hint
    assert "send" not in str(error)
    storage.provider.destroy(mark.volume, mark.id)


# trees that users own


LONG = 4824
"""Characters of a path that no call resolves (linux/limits.h, PATH_MAX)."""


def make_deep(top: Path, name: str = "deep") -> int:
    """Make a subvolume so deep that no path leads to it, with another inside; return its id."""
    fd = os.open(top, files.DIRECTORY)
    try:
        for _ in range(LONG // 201):
            os.mkdir("d" * 200, dir_fd=fd)
            below = os.open("d" * 200, files.DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        ioctl.create_subvolume(fd, name)
        with files.opened(os.open(name, files.DIRECTORY, dir_fd=fd)) as made:
            os.mkdir("directory", dir_fd=made)
            with files.opened(os.open("directory", files.DIRECTORY, dir_fd=made)) as within:
                ioctl.create_subvolume(within, "deeper")
            return ioctl.info(made).tree
    finally:
        os.close(fd)


def test_a_deep_volume_in_the_source(storage: BtrfsStorage) -> None:
    volume = storage.volume("vms")
    share = volume / "share"
    share.mkdir()
    tree = make_deep(volume)
    for nested in Nested:
        mark = take(storage.provider, share, nested)
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
        storage.provider.clear(mark.volume, mark.id)
        assert only(storage.provider).complete
        storage.provider.destroy(mark.volume, mark.id)
    mark = mark_of(probe(storage.provider, share), share)
    inner = make_deep(share)
    for action in (
        lambda: probe(storage.provider, share),
        lambda: make_image(storage.provider, mark),
    ):
        error = refused(action)
        assert error.problem is Problem.NESTED
        assert f"the subvolume with the id {inner} lies inside {share} and would" in error.message
    mark = replace(mark, nested=Nested.INCLUDE)
    for action in (
        lambda: probe(storage.provider, share, Nested.INCLUDE),
        lambda: make_image(storage.provider, mark),
    ):
        error = refused(action)
        assert error.problem is Problem.NESTED
        assert f"the subvolume with the id {inner} lies so deep inside {share}" in error.message
    assert storage.names() == []
    assert tree != inner


@pytest.mark.parametrize("sealed", [False, True])
def test_volumes_that_somebody_made_in_the_image(
    storage: BtrfsStorage, caplog: pytest.LogCaptureFixture, *, sealed: bool
) -> None:
    """They are no part of the backup, named, and go with what recovery wrote to."""
    mark = recovered(storage)
    with seen(storage.provider, mark, writable=True) as image:
        run(["btrfs", "-q", "subvolume", "create", str(image / "theirs")], timeout=60)
        run(["btrfs", "-q", "subvolume", "create", str(image / "inner" / "theirs")], timeout=60)
        tree = make_deep(image / "inner")
        run(["btrfs", "property", "set", str(image / "theirs"), "ro", "true"], timeout=60)
    assert only(storage.provider).complete
    if sealed:
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
        assert "the subvolume theirs, " in caplog.text
        assert "inner/theirs" in caplog.text
        assert f"with the id {tree}" in caplog.text
        assert_recovered(storage.provider, mark)
        with seen(storage.provider, mark) as image:
            assert os.listdir(image / "theirs") == []
        storage.provider.clear(mark.volume, mark.id)
        assert len(in_home(storage)) == 2
    storage.provider.destroy(mark.volume, mark.id)
    assert in_home(storage) == []
    assert storage.parts() == ["vms", "vms/inner"]


def test_names_that_change_meanwhile_are_no_error(storage: BtrfsStorage) -> None:
    share = storage.volume("vms")
    (share / "share").mkdir()
    storage.volume("vms/a")
    with subprocess.Popen(
        ["/bin/sh", "-c", f"cd {share} && while mv a share/b && mv share/b c && mv c a; do :; done"]
    ) as mover:
        try:
            for _ in range(10):
                mark = take(storage.provider, share, Nested.INCLUDE)
                assert only(storage.provider).complete
                storage.provider.destroy(mark.volume, mark.id)
        finally:
            mover.kill()
    assert storage.names() == []


# the home


def move_home(storage: BtrfsStorage, where: str) -> None:
    """Move the home, and put something of somebody else's in its place."""
    (storage.top / where).parent.mkdir(parents=True, exist_ok=True)
    (storage.top / HOME).rename(storage.top / where)
    (storage.top / HOME).mkdir()
    os.chown(storage.top / HOME, 12345, 12345)


@pytest.mark.parametrize("where", ["elsewhere", "vms/some/where"])
def test_a_home_that_was_moved_is_still_ours(
    storage: BtrfsStorage, rig_directory: Path, where: str
) -> None:
    memory = str(rig_directory / "homes.json")
    share = a_share(storage)
    mark = take(Btrfs(storage.identity, Homes(memory)), share, Nested.INCLUDE)
    with seen(storage.provider, mark, writable=True) as image:
        write(image / "file", "recovered")
        write(image / "inner" / "file", "inner recovered")
    move_home(storage, where)
    provider = Btrfs(storage.identity, Homes(memory))
    assert only(provider).complete
    provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert_recovered(provider, mark)
    provider.clear(mark.volume, mark.id)
    other = take(provider, share, Nested.INCLUDE)
    assert {image.id for image in provider.inventory().images} == {mark.id, other.id}
    with seen(provider, other) as image:
        assert not (image / "some" / "where" / PLACE).exists()
    with pytest.raises(RvssError, match="itself inside a shadow copy"):
        probe(provider, storage.top / where)
    for gone in (mark, other):
        provider.destroy(gone.volume, gone.id)
    assert os.listdir(storage.top / where) == [PLACE]
    assert os.listdir(storage.top / HOME) == []


def test_a_home_that_was_moved_where_no_path_leads(storage: BtrfsStorage) -> None:
    mark = recovered(storage)
    with files.opened(os.open(storage.top, files.DIRECTORY)) as top:
        fd = os.dup(top)
        for _ in range(LONG // 201):
            os.mkdir("d" * 200, dir_fd=fd)
            below = os.open("d" * 200, files.DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.rename(HOME, "home", src_dir_fd=top, dst_dir_fd=fd)
        os.close(fd)
    assert only(storage.provider).complete
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    storage.provider.clear(mark.volume, mark.id)
    assert_recovered(storage.provider, mark)
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.provider.inventory().images == ()


def test_a_renamed_home_does_not_show_in_an_image_of_the_top(storage: BtrfsStorage) -> None:
    take(storage.provider, storage.top)
    (storage.top / HOME).rename(storage.top / "elsewhere")
    mark = take(storage.provider, storage.top)
    with seen(storage.provider, mark) as image:
        assert os.listdir(image) == []


def test_a_home_that_was_deleted_is_said(storage: BtrfsStorage, rig_directory: Path) -> None:
    memory = str(rig_directory / "homes.json")
    mark = take(Btrfs(storage.identity, Homes(memory)), storage.volume("vms"))
    tree = tree_of(storage.top / HOME)
    run(["find", str(storage.top / HOME), "-mindepth", "1", "-delete"], timeout=60)
    run(["btrfs", "-q", "subvolume", "delete", str(storage.top / HOME)], timeout=60)
    provider = Btrfs(storage.identity, Homes(memory))
    inventory = provider.inventory()
    assert mark.volume.file_system not in inventory.file_systems
    assert f"the subvolume {tree}, has been deleted" in inventory.unlisted[mark.volume.file_system]
    assert refused(provider.open, mark.volume, mark.id).problem is Problem.NOT_FOUND
    provider.destroy(mark.volume, mark.id)
    provider.clear(mark.volume, mark.id)
    make_image(provider, mark)
    assert only(Btrfs(storage.identity, Homes(memory))).id == mark.id


def test_an_id_that_is_somebody_elses_now_is_no_home(
    storage: BtrfsStorage, rig_directory: Path
) -> None:
    """A file system that was made anew, or restored, can have one's uuid and give ids anew."""
    memory = rig_directory / "homes.json"
    share = storage.volume("vms")
    mark = take(Btrfs(storage.identity, Homes(str(memory))), share)
    theirs = storage.fs.subvolume("theirs", 0o755)
    os.chown(theirs, 12345, 12345)
    data = json.loads(memory.read_text())
    assert data[mark.volume.file_system][0] == tree_of(storage.top / HOME)
    data[mark.volume.file_system][0] = tree_of(theirs)
    memory.write_text(json.dumps(data))
    provider = Btrfs(storage.identity, Homes(str(memory)))
    assert mark.volume.file_system in provider.inventory().unlisted
    probe(provider, theirs)
    again = take(provider, share)
    status = theirs.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12345, 12345, 0o755)
    assert os.listdir(theirs) == []
    assert {image.id for image in provider.inventory().images} == {mark.id, again.id}


def test_a_home_that_was_given_to_others_is_given_back(storage: BtrfsStorage) -> None:
    mark = recovered(storage)
    home = storage.top / HOME
    for verb in (
        lambda: storage.provider.seal(mark.volume, mark.id, SEALED, opened=True),
        lambda: only(storage.provider),
        lambda: storage.provider.destroy(mark.volume, mark.id),
    ):
        # A part that is sealed refuses it.
        run(["chmod", "-R", "a+rwx", str(home)], timeout=60, allow=frozenset({0, 1}))
        marks = [home / PLACE, home / PLACE / mark.id]
        run(["chown", "12345:12345", str(home), *map(str, marks)], timeout=60)
        verb()
        for place in (home, *marks):
            if place.exists():
                status = place.stat()
                assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o700)
    assert storage.names() == []


def test_memory_that_cannot_be_written_stops_nothing(
    storage: BtrfsStorage, rig_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = Btrfs(storage.identity, Homes(str(rig_directory / "missing" / "homes.json")))
    mark = take(provider, storage.volume("vms"))
    assert only(provider).id == mark.id
    assert caplog.text.count("homes.json") == 1
    (rig_directory / "damaged").write_text("[]")
    assert only(Btrfs(storage.identity, Homes(str(rig_directory / "damaged")))).id == mark.id


# whose an image is


def copy_mark(storage: BtrfsStorage, image: str, name: str) -> None:
    """Copy the mark of an image, as somebody with a file manager would."""
    marks = storage.top / HOME / PLACE
    (marks / name).mkdir()
    os.setxattr(marks / name, MARK, os.getxattr(marks / image, MARK))


def assert_left_alone(provider: Provider, volume: Volume, image: str) -> None:
    """See that nothing is done with an image that is not ours."""
    for action in (
        lambda: provider.open(volume, image),
        lambda: provider.seal(volume, image, SEALED, opened=True),
        lambda: provider.destroy(volume, image),
    ):
        assert refused(action).problem is Problem.BAD_PATH


def test_a_copied_mark(storage: BtrfsStorage) -> None:
    mark = take(storage.provider, storage.volume("vms"))
    name = f"{mark.id[:-8]}00000000"
    copy_mark(storage, mark.id, name)
    found = foreign(storage, storage.provider)
    assert [(image.id, image.whose) for image in found] == [(name, Whose.RENAMED)]
    assert_left_alone(storage.provider, mark.volume, name)
    assert only(storage.provider).complete


def test_a_renamed_mark(storage: BtrfsStorage) -> None:
    mark = take(storage.provider, storage.volume("vms"))
    marks, name = storage.top / HOME / PLACE, f"{mark.id[:-8]}00000000"
    (marks / mark.id).rename(marks / name)
    parts = in_home(storage)
    found = {image.id: image.whose for image in foreign(storage, storage.provider)}
    assert found == {name: Whose.RENAMED, mark.id: Whose.UNKNOWN}
    assert storage.provider.inventory().images == ()
    assert_left_alone(storage.provider, mark.volume, name)
    storage.provider.destroy(mark.volume, mark.id)
    assert in_home(storage) == parts


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("where", [f"{HOME}/kept", "kept"])
def test_a_part_that_was_moved(storage: BtrfsStorage, where: str, *, sealed: bool) -> None:
    """Only a writable one can be moved, and any can be renamed."""
    mark = recovered(storage)
    if sealed:
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
        storage.provider.clear(mark.volume, mark.id)
    if sealed and where == "kept":
        return
    (storage.top / HOME / storage.image_parts(mark.id)["inner"]).rename(storage.top / where)
    parts = in_home(storage)
    found = alien(storage, storage.provider)
    assert (found.id, found.whose, found.where) == (mark.id, Whose.RENAMED, f"/{where}")
    assert found.mark == only_mark(storage, mark.id)
    assert_left_alone(storage.provider, mark.volume, mark.id)
    assert in_home(storage) == parts


def only_mark(storage: BtrfsStorage, image: str) -> Mark:
    """Return an image's mark as another instance of us reads it."""
    (found,) = [each for each in storage.other.inventory().foreign if each.id == image]
    assert found.mark is not None
    return found.mark


def test_a_part_that_was_replaced(storage: BtrfsStorage) -> None:
    mark = take(storage.provider, storage.volume("vms"))
    name = storage.image_parts(mark.id)[""]
    storage.fs.delete_subvolume(f"{HOME}/{name}")
    assert not only(storage.provider).complete
    storage.fs.subvolume(f"{HOME}/{name}")
    found = alien(storage, storage.provider)
    assert (found.id, found.whose, found.where) == (mark.id, Whose.RENAMED, f"/{HOME}/{name}")
    assert_left_alone(storage.provider, mark.volume, mark.id)
    assert in_home(storage) == [name]


def test_a_file_system_whose_id_was_changed(storage: BtrfsStorage) -> None:
    """As on a block clone, which has an id of its own while the original is mounted."""
    mark = take(storage.provider, storage.volume("vms"))
    storage.take_away()
    run(["btrfstune", "-m", "-f", storage.fs.device], timeout=60)
    storage.fs.mount(storage.top)
    found = alien(storage, storage.provider)
    assert (found.id, found.whose, found.mark) == (mark.id, Whose.CLONE, mark)
    assert found.file_system != mark.volume.file_system
    assert found.where == f"/{HOME}/{storage.image_parts(mark.id)['']}"
    here = replace(mark.volume, file_system=found.file_system)
    assert_left_alone(storage.provider, here, mark.id)
    assert refused(storage.provider.destroy, mark.volume, mark.id).problem is Problem.NOT_FOUND
    assert len(in_home(storage)) == 1


def test_an_image_is_claimed(storage: BtrfsStorage) -> None:
    mark = recovered(storage)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    mark = replace(mark, sealed=SEALED)
    assert alien(storage, storage.other).whose is Whose.INSTANCE
    for _ in range(2):
        storage.other.claim(mark)
        assert only(storage.other).mark == mark
    assert alien(storage, storage.provider).whose is Whose.INSTANCE
    assert_recovered(storage.other, mark)
    storage.other.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_an_error_belongs_to_one_image(storage: BtrfsStorage) -> None:
    share = storage.volume("vms")
    mark, broken = take(storage.provider, share), take(storage.provider, share)
    place = storage.top / HOME / PLACE / broken.id
    text = json.loads(os.getxattr(place, MARK))
    text["more"]["parts"][0][3] = "no uuid"
    os.setxattr(place, MARK, json.dumps(text).encode())
    odd = storage.top / HOME / PLACE / "no id"
    odd.mkdir()
    os.setxattr(odd, MARK, json.dumps({**text, "id": "no id"}).encode())
    inventory = storage.provider.inventory()
    assert [image.id for image in inventory.images] == [mark.id]
    found = {image.id: image.whose for image in foreign(storage, storage.provider)}
    assert found == {broken.id: Whose.UNKNOWN, "no id": Whose.UNKNOWN}
    assert mark.volume.file_system in inventory.file_systems


# the former layout


def take_former(storage: BtrfsStorage, *, read_only: bool = False) -> Mark:
    """Make an image as former releases did; return its mark."""
    share = a_share(storage)
    storage.fs.subvolume(HOME, 0o700)
    mark = mark_of(probe(storage.provider, share, Nested.INCLUDE), share, Nested.INCLUDE)
    volume = mark.volume
    place = storage.top / HOME / mark.id
    place.mkdir(0o700)
    old = {
        "version": 1,
        "instance": storage.identity.run_directory,
        "id": mark.id,
        "share": mark.share,
        "share_path": mark.share_path,
        "key": volume.key,
        "name": volume.name,
        "directory": volume.directory,
        "inode": volume.inode,
        "created": mark.created.isoformat(),
        "nested": mark.nested.value,
    }
    os.setxattr(place, MARK, json.dumps(old).encode())
    image = storage.fs.snapshot("vms", f"{HOME}/{mark.id}/image")
    (image / "inner").rmdir()
    storage.fs.snapshot("vms/inner", f"{HOME}/{mark.id}/image/inner")
    write(image / "file", "recovered")
    write(image / "inner" / "file", "inner recovered")
    if read_only:
        for path in (image / "inner", image):
            run(["btrfs", "property", "set", str(path), "ro", "true"], timeout=60)
    return mark


def assert_former(found: Image, mark: Mark, *, read_only: bool, former: bool) -> None:
    """See what the inventory says of an image in the former layout."""
    assert found.mark == mark
    assert (found.former, found.complete, found.read_only) == (former, True, read_only)


@pytest.mark.parametrize("read_only", [False, True])
def test_an_image_of_the_former_layout(storage: BtrfsStorage, *, read_only: bool) -> None:
    mark = take_former(storage, read_only=read_only)
    provider = Btrfs(storage.identity)
    found = only(provider)
    assert (found.mark, found.former, found.complete, found.read_only) == (
        mark,
        True,
        True,
        read_only,
    )
    if read_only:
        assert_recovered(provider, mark)
    provider.claim(mark)
    found = only(provider)
    assert (found.mark, found.former, found.complete, found.read_only) == (
        mark,
        False,
        True,
        read_only,
    )
    assert refused(storage.other.destroy, mark.volume, mark.id).problem is Problem.BAD_PATH
    provider.destroy(mark.volume, mark.id)
    assert storage.names() == []
    assert storage.parts() == ["vms", "vms/inner"]


@pytest.mark.parametrize("step", ["", *STEPS])
def test_an_image_of_the_former_layout_is_sealed(storage: BtrfsStorage, step: str) -> None:
    mark = take_former(storage)
    provider = Btrfs(storage.identity)
    if step:
        seal_and_die(storage, mark, step)
        finish_sealing(provider, mark, step)
    else:
        provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert_recovered(provider, mark)
    provider.clear(mark.volume, mark.id)
    assert_recovered(provider, mark)
    assert sorted(image_of(name) for name in in_home(storage)) == [mark.id] * 2
    found = only(provider)
    assert (found.former, found.complete, found.read_only, found.remnants) == (
        False,
        True,
        True,
        False,
    )
    provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_a_former_image_whose_new_mark_was_cut_off(storage: BtrfsStorage) -> None:
    mark = take_former(storage)
    (storage.top / HOME / PLACE / mark.id).mkdir(parents=True)
    provider = Btrfs(storage.identity)
    assert_former(only(provider), mark, read_only=False, former=True)
    provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert_recovered(provider, mark)
    provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_a_former_image_with_deep_volumes_goes(storage: BtrfsStorage) -> None:
    mark = take_former(storage)
    make_deep(storage.top / HOME / mark.id / "image")
    provider = Btrfs(storage.identity)
    assert only(provider).complete
    provider.destroy(mark.volume, mark.id)
    assert storage.parts() == ["vms", "vms/inner"]


def test_who_goes_on_making_subvolumes_in_it_is_not_waited_for(storage: BtrfsStorage) -> None:
    """Deleting gives up, and the caller tries again: others wait for the same volume."""
    mark = take(storage.provider, storage.volume("vms"))
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    (writable,) = [name for name in in_home(storage) if name.endswith(".rw")]
    makers = [
        subprocess.Popen([sys.executable, "-ISEc", MAKER, str(storage.top / HOME / writable), word])
        for word in ("a", "b")
    ]
    said = Problem.BUSY
    try:
        wait_until("they make some", lambda: len(os.listdir(storage.top / HOME / writable)) > 9)
        try:
            storage.provider.clear(mark.volume, mark.id)
        except RvssError as exc:
            said = exc.problem
    finally:
        for maker in makers:
            maker.kill()
            maker.wait()
    assert said is Problem.BUSY  # or it won
    storage.provider.clear(mark.volume, mark.id)
    assert not only(storage.provider).remnants


MAKER = """
import ctypes, fcntl, os, struct, sys
root = os.open(sys.argv[1], os.O_RDONLY)
number = 0
while True:
    number += 1
    try:
        name = f"{sys.argv[2]}{number}".encode()
        fcntl.ioctl(root, 0x5000940E, bytearray(struct.pack("=q4088s", 0, name)), True)
    except OSError:
        os._exit(0)
"""

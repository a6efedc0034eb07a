"""What samba-rvss does not do, each with its own sentence, and how it follows smb.conf."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounting
from samba_rvss.model import Context, Phase, SetState
from samba_rvss.run import run
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.results import FsrvpError

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

_SECONDS = 30.0


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """What a test has to take back before its rig can go."""
    with ExitStack() as stack:
        yield stack


def _assert_said(rig: "Rig", sentence: str, daemon: int = 0, samba: int = 0) -> None:
    """Fail unless a sentence is in Samba's log and in the daemon's, from where they stood."""
    said = rig.samba.log()[samba:]
    assert f"samba-rvss hook: {sentence}" in said, said
    rig.wait_for_log(sentence, start=daemon)


def _refused(rig: "Rig", sentence: str, name: str, call: Callable[..., Any], *words: Any) -> None:
    """Expect a method of FSRVP to fail, and a sentence in both logs."""
    daemon, samba = len(rig.daemon.log()), len(rig.samba.log())
    with pytest.raises(FsrvpError) as caught:
        call(*words)
    assert caught.value.name == name, rig.samba.log()[samba:]
    _assert_said(rig, sentence, daemon, samba)


# Each takes what it is about, breaks it, and returns the sentence that it expects.


def _link(rig: "Rig", undo: ExitStack) -> str:
    path = rig.fs.path / "vms"
    real = path.rename(rig.fs.path / "real")
    path.symlink_to(real)
    return (
        f"the path {path} of [vms] has a symbolic link in it:"
        f" if {real} is meant, write that into smb.conf"
    )


def _link_above(rig: "Rig", undo: ExitStack) -> str:
    path = rig.fs.path / "vms" / "a" / "b"
    path.mkdir(parents=True)
    rig.share("vms", path)
    real = (rig.fs.path / "vms" / "a").rename(rig.fs.path / "vms" / "c")
    (rig.fs.path / "vms" / "a").symlink_to("c")
    return (
        f"the path {path} of [vms] has a symbolic link in it:"
        f" if {real / 'b'} is meant, write that into smb.conf"
    )


def _dots(rig: "Rig", undo: ExitStack) -> str:
    path = f"{rig.fs.path}/vms/../vms"
    rig.share("vms", path)
    return f"the path {path} of [vms] has a '..': write the directory's real path into smb.conf"


def _backslash(rig: "Rig", undo: ExitStack) -> str:
    """The hook is told of "ab", which is another directory."""
    path = rig.fs.path / "vms" / "a\\b"
    path.mkdir()
    path.with_name("ab").mkdir()
    rig.share("vms", path)
    return (
        f"[vms]: Samba cannot pass its path {path} on to the hook, because it has a quote, a"
        " backslash, a line's end or what is not UTF-8 in it: rename the directory"
    )


def _nested(rig: "Rig", undo: ExitStack) -> str:
    rig.fs.volume("vms/inner")
    return rig.fs.nested_refusal("vms/inner")


def _mounted(rig: "Rig", undo: ExitStack) -> str:
    path = rig.fs.path / "vms"
    (path / "below").mkdir()
    run(["mount", "-t", "tmpfs", "none", str(path / "below")], timeout=_SECONDS)
    undo.callback(mounting.umount, str(path / "below"))
    return (
        f"the tmpfs file system mounted at {path / 'below'} lies inside {path} and would be"
        " missing in a shadow copy: share it on its own or mount it elsewhere"
    )


def _other_kind(rig: "Rig", undo: ExitStack) -> str:
    path = rig.directory / "plain"
    path.mkdir()
    run(["mount", "-t", "tmpfs", "none", str(path)], timeout=_SECONDS)
    undo.callback(mounting.umount, str(path))
    rig.share("vms", path)
    return f"the file system of {path} cannot take shadow copies: known are btrfs, zfs"


def _read_only(rig: "Rig", undo: ExitStack) -> str:
    undo.enter_context(rig.fs.read_only())
    return rig.fs.read_only_refusal(rig.fs.path / "vms")


def _image(rig: "Rig", undo: ExitStack) -> str:
    path, sentence = rig.fs.image_path(undo)
    rig.share("vms", path)
    return sentence


_CASES = [_link, _link_above, _dots, _backslash, _nested, _mounted, _other_kind, _read_only, _image]


@pytest.mark.parametrize("arrange", _CASES, ids=lambda case: case.__name__.strip("_"))
def test_share_is_not_supported(
    rig: "Rig",
    undo: ExitStack,
    samba_root: Any,
    arrange: Callable[["Rig", ExitStack], str],
) -> None:
    rig.share("vms", rig.volume())
    rig.start()
    sentence = arrange(rig, undo)
    with rig.client(samba_root) as client:
        _refused(rig, sentence, "FSRVP_E_NOT_SUPPORTED", client.is_path_supported, "vms")
        begun = CopySet(client, Context.AUTO_RECOVERY, abort_on_failure=False)
        begun.start()
        _refused(rig, sentence, "FSRVP_E_NOT_SUPPORTED", begun.add, "vms")
        begun.abort()
    shown = rig.command("shares")
    assert sentence.removeprefix("[vms]: ") in shown.stdout
    undo.close()
    rig.assert_nothing_left()


@pytest.mark.parametrize("arrange", [_link, _nested, _read_only], ids=lambda c: c.__name__[1:])
def test_share_changes_before_commit(
    rig: "Rig", undo: ExitStack, arrange: Callable[["Rig", ExitStack], str]
) -> None:
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        begun = CopySet(client, Context.AUTO_RECOVERY, abort_on_failure=False)
        begun.prepare("vms")
        sentence = arrange(rig, undo)
        _refused(rig, sentence, "E_FAIL", begun.commit)
        begun.abort()
    undo.close()
    rig.assert_nothing_left()


def test_what_samba_cannot_expose_is_not_taken(rig: "Rig") -> None:
    """Else its set would be committed, could not be exposed, and would be in the way of others."""
    volume, config = rig.volume(), rig.samba.configuration
    rig.share("vms", volume, {"frobnicate": "yes"})
    rig.start()
    with rig.client() as client:

        def refuses(sentence: str, in_status: str) -> None:
            _refused(rig, sentence, "FSRVP_E_NOT_SUPPORTED", client.is_path_supported, "vms")
            assert in_status in rig.command("status").stdout
            assert in_status.removeprefix("[vms]: ") in rig.command("shares").stdout

        unknown = "[vms]: its section has 'frobnicate', which Samba does not know"
        refuses(unknown, unknown)
        rig.share("vms", volume)
        config.chmod(0o600)
        who = f"uid {rig.operator.uid} cannot read {config} (mode 0600), and Samba opens it as"
        refuses(who, f"only root can read {config} (mode 0600)")
        assert who in rig.command("status").stdout
        config.chmod(0o644)
        os.utime(config, (0, 0))
        refuses(f"{config} was last changed on 1 January 1970", "1 January 1970")
        os.utime(config)
        assert client.is_path_supported("vms")
        assert rig.command("status").returncode == 0
    rig.assert_a_fresh_set_works("vms")
    rig.assert_nothing_left()


def test_share_vanishes_before_commit(rig: "Rig") -> None:
    """smb.conf is not read inside the freeze: the copy is taken, and Samba cannot expose it."""
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        begun = CopySet(client, Context.AUTO_RECOVERY, abort_on_failure=False)
        begun.prepare("vms")
        rig.samba.drop_share("vms")
        begun.commit()
        with pytest.raises(FsrvpError) as caught:
            begun.expose()
        assert caught.value.name == "E_FAIL"
        assert rig.exposed_shares() == []
    (copy,) = rig.ledger()
    assert rig.command("delete", copy.id).returncode == 0
    rig.assert_nothing_left(sets=False)


def test_share_vanishes_before_delete(rig: "Rig") -> None:
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        taken.complete()
        (copy,) = rig.wait_for_phase(Phase.SEALED)
        rig.samba.drop_share("vms")
        said = rig.command("status").stdout
        assert "[vms] has 1 exposed shadow copies, and is no share of ours any more" in said
        assert rig.command("reconcile").returncode == 0
        assert rig.ledger() == [copy]
        # Samba's worker still knows the share, and we know the copy.
        taken.delete()
    rig.assert_nothing_left()


def test_delete_of_what_is_not_ours(rig: "Rig") -> None:
    first, second = rig.volume("first"), rig.volume("second")
    rig.share("first", first)
    rig.share("second", second)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "first")
        (copy,) = rig.wait_for_phase(Phase.OPEN, state=SetState.EXPOSED)
        places = [str(path) for path in (first, *rig.fs.hidden(copy.id))]
        for foreign in ("/etc", *places, f"{copy.path}/", "/"):
            done = rig.hook("delete", str(first), foreign)
            assert (done.returncode, done.stdout) == (Problem.NOT_FOUND, "")
            sentence = f"{foreign} is not a shadow copy that we made: nothing is done"
            assert done.stderr == f"samba-rvss hook: {sentence}\n"
            rig.wait_for_log(sentence)
        done = rig.hook("delete", str(second), copy.path)
        assert done.returncode == Problem.NOT_FOUND
        sentence = f"{copy.path} is a shadow copy of {first}, not of {second}: nothing is done"
        assert done.stderr == f"samba-rvss hook: {sentence}\n"
        rig.wait_for_log(sentence)
        done = rig.hook("delete", "/nowhere", copy.path)
        assert done.returncode == Problem.NOT_OURS
        assert rig.ledger() == [copy]
        assert rig.images() == [copy.id]
        with rig.session(taken.mappings[0].exposed_share) as session:
            session.write("still", b"open")
        taken.delete()
    rig.assert_nothing_left()


def test_exposed_copy_is_no_base_share(rig: "Rig") -> None:
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        taken.complete()
        (copy,) = rig.wait_for_phase(Phase.SEALED)
    rig.samba.end_workers()  # a new one knows the exposed share
    rig.share("again", copy.path)
    with rig.client() as client:
        with pytest.raises(FsrvpError):
            client.is_path_supported(taken.mappings[0].exposed_share)
        sentence = f"the path {copy.path} of [again] is a shadow copy's own"
        _refused(rig, sentence, "FSRVP_E_NOT_SUPPORTED", client.is_path_supported, "again")
        assert rig.ledger() == [copy]
        taken.client = client
        taken.delete()
    rig.assert_nothing_left()


# smb.conf


@pytest.mark.parametrize(
    ("option", "text", "sentence"),
    [
        ("rvss:seal", "1", "[global] has the unknown option 'rvss:seal': "),
        ("rvss:seal deadline", "soon", "[global] has 'rvss:seal deadline = soon': a"),
    ],
    ids=["unknown", "value"],
)
def test_bad_option(rig: "Rig", option: str, text: str, sentence: str) -> None:
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    size = len(rig.daemon.log())
    rig.samba.set_options({option: text})
    done = rig.hook("check", str(volume))
    assert (done.returncode, done.stderr) == (0, "")  # by the configuration that it had
    line = rig.wait_for_log("the changed configuration is not used", start=size)
    assert sentence in line
    rig.daemon.stop()
    with pytest.raises(RvssError, match="the daemon does not serve") as caught:
        rig.daemon.start()
    assert f"samba-rvss: {sentence}" in str(caught.value)
    assert "Traceback" not in rig.daemon.log()
    rig.assert_nothing_left()


def test_corrected_option_is_used(rig: "Rig") -> None:
    """What has gone from smb.conf has gone from the daemon as well."""
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    rig.fs.volume("vms/inner")
    assert rig.hook("check", str(volume)).returncode == Problem.NESTED
    other = rig.fs.volume("other")
    rig.share("other", other)
    rig.share("vms", volume, {"rvss:nested": "includes"})
    for _ in range(2):  # changed while the daemon runs, and found when it starts
        done = rig.hook("check", str(volume))
        assert done.returncode == Problem.NOT_SUPPORTED
        assert "[vms]: it has 'rvss:nested = includes': refuse or include is" in done.stderr
        assert rig.hook("check", str(other)).returncode == 0
        rig.daemon.stop()
        rig.daemon.start()
    rig.share("vms", volume, {"rvss:nested": "include"})
    assert rig.hook("check", str(volume)).returncode == 0
    rig.share("vms", volume)
    assert rig.hook("check", str(volume)).returncode == Problem.NESTED
    rig.samba.set_share("vms", f"[vms]\n    path = {volume}\n")
    assert rig.hook("check", str(volume)).returncode == Problem.NOT_OURS
    rig.share("vms", volume, {"rvss:nested": "include"})
    assert rig.hook("check", str(volume)).returncode == 0
    rig.samba.drop_share("vms")
    assert rig.hook("check", str(volume)).returncode == Problem.NOT_OURS


def test_no_more_copies_than_a_share_may_have(rig: "Rig") -> None:
    """Also of clients that do not ask before they create; and how much space must be free."""
    volume = rig.volume()
    rig.share("vms", volume, {"rvss:maximum copies": "2"})
    rig.start()
    for _ in range(2):
        assert rig.hook("check", str(volume)).returncode == 0
        assert rig.hook("create", str(volume)).returncode == 0
    said = rig.command("status").stdout
    for verb in ("check", "create"):
        done = rig.hook(verb, str(volume))
        assert done.returncode == Problem.LIMIT
        assert "[vms] has 2 shadow copies, and 'rvss:maximum copies' allows 2" in done.stderr
    assert "[vms] has 2 shadow copies" in said
    for copy in rig.ledger():
        assert rig.command("delete", copy.id).returncode == 0
    rig.share("vms", volume, {"rvss:minimum free": "1 T"})
    done = rig.hook("check", str(volume))
    assert done.returncode == Problem.NO_SPACE
    assert "'rvss:minimum free' wants" in done.stderr
    rig.assert_nothing_left()


def test_one_daemon_for_each_of_its_directories(rig: "Rig") -> None:
    """Neither a second one nor reconciling at boot touches the first one's sockets and copies."""
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    run, state = rig.daemon.run_directory, rig.daemon.state_directory
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        rig.wait_for_phase(Phase.OPEN)
        before = (run / "hook.sock").stat().st_ino, rig.mounts(), rig.images()
        other = rig.directory / "other.conf"
        for verb in (["daemon"], ["reconcile", "--boot"]):
            done = rig.command(*verb)
            assert done.returncode == Problem.BUSY
            assert f"another samba-rvss daemon uses {state}" in done.stderr
            for ours, hint in ((run, "state"), (state, "run")):
                # The same with another of the one, or of the other
                other.write_text(rig.samba.text().replace(str(ours), f"{rig.directory}/other"))
                done = subprocess.run(
                    [*done.args[:4], str(other), *verb],
                    capture_output=True,
                    text=True,
                    env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
                    timeout=_SECONDS,
                    check=False,
                )
                assert done.returncode == Problem.BUSY
                left = state if ours is run else run
                assert f"another samba-rvss daemon uses {left}" in done.stderr
                if ours is state or verb == ["daemon"]:
                    assert f"give a second instance an 'rvss:{hint} directory' of" in done.stderr
        assert before == ((run / "hook.sock").stat().st_ino, rig.mounts(), rig.images())
        taken.delete()
    # The first one serves on
    with rig.client() as client:
        rig.expose(client, "vms").delete()
    rig.assert_nothing_left()


def test_new_share_needs_no_word(rig: "Rig") -> None:
    """A new share of any origin works without a word to the daemon."""
    rig.share("vms", rig.volume())
    rig.start()
    rig.assert_a_fresh_set_works("vms")
    rig.share("later", rig.volume("later"))
    rig.samba.end_workers()
    rig.assert_a_fresh_set_works("later")

    path = rig.volume("copied")
    rig.samba.set_share("copied", f"[copied]\n    copy = vms\n    path = {path}\n")
    rig.samba.end_workers()
    rig.assert_a_fresh_set_works("copied")

    path = rig.volume("registered")
    rig.samba.net("conf", "addshare", "registered", str(path), "writeable=y")
    options = rig.daemon.share("registered", path).splitlines()[1:]
    for line in options:
        key, _, text = line.strip().partition(" = ")
        rig.samba.net("conf", "setparm", "registered", key, text)
    rig.samba.reload()
    rig.samba.end_workers()
    rig.assert_a_fresh_set_works("registered")

    # What stands in an included file is followed as well; but Samba itself cannot expose a share
    # that is defined there (lib/smbconf/smbconf_txt.c reads the one file only), so that it is
    # refused before its data is frozen for nothing.
    included = rig.directory / "more.conf"
    included.write_text("")
    included.chmod(0o644)
    rig.samba.set_share("include", f"    include = {included}\n")
    rig.assert_a_fresh_set_works("vms")
    included.write_text(rig.daemon.share("included", rig.volume("included")))
    rig.samba.reload()
    rig.samba.end_workers()
    sentence = (
        f"[included] at {rig.fs.path / 'included'} cannot have shadow copies: it stands in an"
        " included file, where Samba cannot find it when it exposes a copy; move it into smb.conf"
        " itself or into the registry"
    )
    with rig.client() as client:
        _refused(rig, sentence, "FSRVP_E_NOT_SUPPORTED", client.is_path_supported, "included")
    assert "[included]: it stands in an included file" in rig.command("status").stdout
    rig.assert_nothing_left()

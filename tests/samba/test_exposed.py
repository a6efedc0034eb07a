"""Exposed shares are not what their base shares are: who may write, and what modules may do."""

import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem
from samba_rvss.model import Phase
from samba_rvss.samba.fsrvp.results import FsrvpError
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from samba_rvss.testing.users import BackupOperator
    from tests.samba.conftest import Rig


def _wait_for(rig: "Rig", shares: Iterable[str], key: str, text: str) -> None:
    """Wait until a parameter of exposed shares is set, and smbd knows of it."""
    wanted = dict.fromkeys(shares, text)

    def found() -> dict[str, str | None]:
        return {share: rig.parameters(share).get(key) for share in wanted}

    wait_until(lambda: f"{key} is {text}: {found()}", lambda: found() == wanted)
    rig.samba.reload()


def _may_write(rig: "Rig", share: str, user: "BackupOperator") -> bool:
    """Return whether a user, who can connect and read in any case, may write."""
    from samba_rvss.testing.smbclient import SmbError

    with rig.session(share, user) as session:
        assert session.read("data")
        try:
            session.write("data", b"changed")
        except SmbError as exc:
            if exc.name in {"NT_STATUS_ACCESS_DENIED", "NT_STATUS_MEDIA_WRITE_PROTECTED"}:
                return False
            raise
    return True


@pytest.mark.vm(seconds=60, long=True, file_system="zfs")
def test_who_may_recover(rig: "Rig", second_operator: "BackupOperator") -> None:
    """A share that is read-only for others is not writable for all while a client recovers it.

    The file system lets everybody write, so that only smbd can refuse.
    No byte of a name is a macro where it stands in a path: Cyrillic letters begin with D0 or D1.
    """
    first, second = rig.operator, second_operator
    closed = {"read only": "yes"}
    options = {
        "open": {},
        "Архив": {"writeable": "no"},
        "listed": closed | {"write list": f'"{second.name}"'},
        "copied": {},
        "forced": closed | {"force user": first.name},
    }
    # Another name of one directory, which smb.conf has before: only Samba knows which is meant.
    rig.share("namesake", rig.fs.path / "archive")
    for name, more in options.items():
        rig.share(name, rig.volume(name if name.isascii() else "archive"), more)
    copied = f"[copied]\n    copy = listed\n    path = {rig.fs.path / 'copied'}\n"
    rig.samba.set_share("copied", copied)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, *options)
        rig.wait_for_phase(Phase.OPEN, len(options))
        exposed = dict(zip(options, taken.exposed_shares, strict=True))
        ids = {copy.share: copy.id for copy in rig.ledger()}
        assert ids.keys() == options.keys()
        _wait_for(rig, exposed.values(), "durable handles", "no")
        users = {"first": first, "second": second}
        may = {
            name: {who for who, user in users.items() if _may_write(rig, share, user)}
            for name, share in exposed.items()
        }
        assert may == {
            "open": {"first", "second"},
            "Архив": {"first"},
            "listed": {"second"},
            "copied": {"second"},
            "forced": set(),
        }
        taken.complete()
        rig.wait_for_phase(Phase.SEALED, len(options))
        _wait_for(rig, exposed.values(), "read only", "yes")
        for share in exposed.values():
            assert not rig.parameters(share).get("write list")
            assert not any(_may_write(rig, share, user) for user in users.values())
        taken.delete()
    rig.wait_for_log("stays as its share is: nobody knows which client may recover it")
    forced = f"the user is forced, by 'force user = {first.name}'"
    for verb in ("events", "show"):
        assert forced in rig.command(verb, ids["forced"]).stdout
        assert "is forced" not in rig.command(verb, ids["open"]).stdout
    said = rig.command("shares").stdout
    assert "warning: [forced] has 'read only = yes' and 'force user' or 'guest only'" in said
    rig.assert_nothing_left()


def _grants_durable_handles(rig: "Rig", share: str) -> bool:
    """Return whether a handle can come back through a new connection (smbtorture(1))."""
    unc = f"//{rig.samba.address}/{share}"
    user = f"-U{rig.operator.name}%{rig.operator.password}"
    done = subprocess.run(
        ["smbtorture", unc, user, "smb2.durable-v2-open.reopen1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        assert "io.out.durable_open_v2 got 0x0" in done.stderr, done.stdout
    return not done.returncode


@pytest.mark.require("smbtorture")
def test_no_module_takes_a_copy_of_a_copy(rig: "Rig") -> None:
    """Neither does a handle outlive its connection there."""
    options = {
        "kernel share modes": "no",
        "posix locking": "no",
        "vfs objects": 'acl_xattr, shell_snap;"shadow_copy2" btrfs:x',
        "BTRFS : Manipulate Snapshots": "yes",
        "durable handles": "yes",
        "smb3 share cap:Continuous Availability": "yes",
    }
    rig.share("vms", rig.volume(), options)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        rig.wait_for_phase(Phase.OPEN)
        (share,) = taken.exposed_shares
        _wait_for(rig, [share], "durable handles", "no")
        assert _grants_durable_handles(rig, "vms")
        assert not _grants_durable_handles(rig, share)
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        _wait_for(rig, [share], "read only", "yes")
        found = {key.lower().replace(" ", ""): text for key, text in rig.parameters(share).items()}
        assert found["vfsobjects"] == "acl_xattr btrfs:x"
        for key in ("btrfs:manipulatesnapshots", "smb3sharecap:continuousavailability"):
            assert [text for name, text in found.items() if name == key] == ["no"]
        assert found["durablehandles"] == "no"
        rig.samba.end_workers()  # the next one knows the share
        with rig.client() as other, pytest.raises(FsrvpError) as caught:
            other.is_path_supported(share)
        assert caught.value.name == "FSRVP_E_NOT_SUPPORTED"
    assert rig.command("delete", rig.ledger()[0].id).returncode == 0
    rig.assert_nothing_left()


def test_a_module_that_answers_before_us(rig: "Rig") -> None:
    """It would take the copies, and nobody would ever seal them."""
    volume = rig.volume()
    rig.share(
        "vms", volume, {"vfs objects": "btrfs:x shell_snap", "btrfs: manipulate snapshots": "yes"}
    )
    rig.start()
    sentence = (
        "the module btrfs stands before shell_snap in 'vfs objects' and takes shadow copies"
        " itself, which nobody seals: set 'btrfs:manipulate snapshots = no', or put shell_snap"
        " first"
    )
    for verb in ("check", "create"):
        done = rig.hook(verb, str(volume))
        assert (done.returncode, sentence in done.stderr) == (Problem.NOT_SUPPORTED, True)
    assert sentence in rig.command("shares").stdout
    assert f"[vms]: {sentence}" in rig.command("status").stdout
    rig.share("vms", volume, {"vfs objects": "btrfs:x shell_snap"})
    rig.assert_a_fresh_set_works()

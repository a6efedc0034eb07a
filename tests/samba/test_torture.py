"""Samba's own test of a file server's FSRVP service, all ten of it."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.run import environment
from samba_rvss.samba import fss_state
from samba_rvss.testing.plugin import require
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from samba_rvss.testing.users import Root
    from tests.samba.conftest import Account, Rig

SHARE = "fsrvp_share"
_SEQUENCE_SECONDS = 3


def _whole(rig: "Rig") -> Path:
    return rig.volume()


def _inside(rig: "Rig") -> Path:
    """A directory in a volume that is mounted by name, as /srv usually is."""
    path = rig.fs.volume_at(rig.directory / "srv", "srv") / "data" / "vms"
    path.mkdir(parents=True)
    path.chmod(0o777)
    return path


def _spaced(rig: "Rig") -> Path:
    path = rig.volume("virtual") / "My VMs & (x)"
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.mark.vm(seconds=80, file_system="zfs", make=_inside, who="operator")
@pytest.mark.member(file_system="btrfs", make=_inside, who="operator", binding="seal")
@pytest.mark.parametrize(
    ("make", "who"),
    [(_whole, "root"), (_inside, "operator"), (_spaced, "operator")],
    ids=["whole-root", "inside-operator", "spaced-operator"],
)
def test_rpc_fsrvp(rig: "Rig", samba_root: "Root", make: Callable[["Rig"], Path], who: str) -> None:
    require("smbtorture")
    path = make(rig)
    rig.samba.set_options(
        {"fss:sequence timeout": str(_SEQUENCE_SECONDS), "rpcd_classic:num_workers": "1"}
    )
    rig.share(SHARE, path, rig.previous_options(SHARE, path))
    rig.start()
    user: Account = rig.operator if who == "operator" else samba_root
    # share_sd changes a share's descriptor, which a Backup Operator may not do as such.
    rig.samba.net("sam", "rights", "grant", rig.operator.name, "SeDiskOperatorPrivilege")
    # Samba 4.17's rpcd_classic opens share_info.tdb as the first user who needs it.
    done = _run(
        "rpcclient",
        rig.samba.address,
        *samba_root.words,
        "-c",
        f"netsharegetinfo {SHARE} 502",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done = _run(
        "smbtorture",
        f"ncacn_np:{rig.samba.address}[{','.join(rig.binding)}]",
        *user.words,
        f"--option=fss:sequence timeout={_SEQUENCE_SECONDS}",
        f"--basedir={rig.directory}",
        "rpc.fsrvp",
    )
    said = done.stdout + done.stderr
    good = re.findall(r"^success: (\S+)", said, re.MULTILINE)
    bad = re.findall(r"^(?:failure|error|skip|skip-testsuite): .*", said, re.MULTILINE)
    assert (len(good), bad, done.returncode) == (10, [], 0), said
    print(good)
    _assert_only_litter_of_its_own(rig)


def _assert_only_litter_of_its_own(rig: "Rig") -> None:
    """Three of the ten tests never delete what they made; nothing else may be left."""
    state = fss_state.read(str(rig.samba.lock_directory / "srv_fss.tdb"))
    assert state is not None
    known = {seen.path for seen in state.copies}
    # The last one that was deleted may be in the ledger for a moment.
    wait_until("no other copy is left", lambda: {copy.path for copy in rig.ledger()} == known)
    copies = rig.ledger()
    assert rig.images() == sorted(copy.id for copy in copies)
    paths = {path for copy in copies for path in (copy.path, copy.previous_path)}
    assert set(rig.mounts()) == set(rig.mount_directories()) == paths
    exposed = {seen.exposed_share for seen in state.copies if seen.is_exposed}
    assert set(rig.exposed_shares()) == exposed
    assert {f"SECDESC/{name}" for name in exposed} == set(rig.descriptors())
    done = rig.command("delete", *(copy.id for copy in copies))
    assert done.returncode == 0, done.stderr
    # Samba has no word for a set that somebody else removed: it keeps its record.
    rig.assert_nothing_left(sets=False)


def _run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=600,
        check=False,
    )

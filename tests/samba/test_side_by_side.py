"""What lasts long for one volume does not hold up another one's Commit."""

import statistics
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from samba_rvss.model import Context, Phase, ShadowCopy
from samba_rvss.run import environment, run
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import FileSystem, OnBtrfs, only

if TYPE_CHECKING:
    from samba_rvss.samba.fsrvp.client import Client
    from tests.samba.conftest import Rig

_SETS = 3
_DIRTY = 32 << 20


@pytest.fixture
def other(rig: "Rig") -> Iterator[FileSystem]:
    """Where the volume is whose image cannot be destroyed for a while.

    btrfs destroys in the background what is open, and can be kept from it by freezing all of it
    only: it takes a file system of its own. A dataset of ZFS is busy on its own.
    """
    if rig.fs.kind == "zfs":
        yield rig.fs
    else:
        with OnBtrfs(rig.directory) as file_system:
            yield file_system


@contextmanager
def _hold(file_system: FileSystem, copy: ShadowCopy) -> Iterator[None]:
    """Keep the destruction of an image from coming to its end."""
    if file_system.kind == "zfs":
        with open(f"{copy.path}/data", "rb"):
            yield
    else:
        run(["fsfreeze", "--freeze", str(file_system.path)], timeout=30)
        try:
            yield
        finally:
            run(["fsfreeze", "--unfreeze", str(file_system.path)], timeout=30)


def _commit(rig: "Rig", client: "Client") -> float:
    """Take a shadow copy of the share "quick" through Samba; return the seconds of its Commit."""
    taken = CopySet(client, Context.AUTO_RECOVERY)
    taken.prepare("quick")
    taken.commit()
    spent = taken.calls[-1].seconds
    taken.expose()
    taken.complete()
    taken.delete()
    return spent


def _phase(rig: "Rig", copy: ShadowCopy) -> Phase:
    return next((c.phase for c in rig.ledger() if c.id == copy.id), Phase.GONE)


def test_commit_during_a_destruction(rig: "Rig", other: FileSystem) -> None:
    """The one who waits is the one whose image is held."""
    rig.share("quick", rig.volume("quick"))
    slow = other.volume("slow")
    (slow / "data").write_bytes(bytes(_DIRTY))
    (slow / "data").chmod(0o666)
    rig.share("slow", slow)
    rig.start()
    answers: list[subprocess.CompletedProcess[str]] = []
    with ExitStack() as stack, rig.client() as client:
        taken = rig.expose(client, "slow")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        with rig.session(taken.mappings[0].exposed_share) as session:
            session.write("data", b"x" * _DIRTY)
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        alone = [_commit(rig, client) for _ in range(_SETS)]
        deletion = threading.Thread(target=lambda: answers.append(rig.command("delete", copy.id)))
        with _hold(other, copy):
            deletion.start()
            stack.callback(deletion.join)
            wait_until("it is being deleted", lambda: _phase(rig, copy) is Phase.DELETING, 30)
            # It is the destruction that does not end, and not what comes before it.
            rig.wait_for_unmounted(copy.path)
            beside = [_commit(rig, client) for _ in range(_SETS)]
            assert _phase(rig, copy) is Phase.DELETING
            assert copy.id in other.images()
        print(f"Commit alone {_figures(alone)}, during a destruction {_figures(beside)}")
        deletion.join(60)
        # It ends at once, or a moment after it was given up: it is tried again.
        wait_until("it is gone", lambda: _phase(rig, copy) is Phase.GONE)
        taken.delete()
    print(f"the deletion: {answers[0].returncode} {answers[0].stderr}")
    rig.assert_nothing_left()
    assert other.images() == []


def _figures(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.0f} ms (at most {1000 * max(seconds):.0f})"


@only("zfs")
@pytest.mark.vm(seconds=60, long=True)
def test_samba_does_not_wait_for_a_destruction(rig: "Rig") -> None:
    """One worker serves all clients, one request at a time.

    A client that deletes a copy whose image is in use must not hold up the others: for Samba it
    is gone as soon as nobody can reach it.
    """
    rig.share("quick", rig.volume("quick"))
    rig.share("slow", rig.volume("slow"))
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "slow")
        taken.complete()
        (copy,) = rig.wait_for_phase(Phase.SEALED)
        # A process of its own: python-samba keeps the interpreter's lock while it waits.
        words = f"fss_delete slow {taken.id} {taken.mappings[0].copy_id}"
        user = f"{rig.operator.name}%{rig.operator.password}"
        with (
            _hold(rig.fs, copy),
            subprocess.Popen(
                ["rpcclient", rig.samba.address, "-U", user, "-c", words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=environment(),
                text=True,
            ) as deletion,
        ):
            rig.wait_for_unmounted(copy.path)
            spent = _commit(rig, client)
            said = deletion.communicate(timeout=60)[0]
            assert _phase(rig, copy) is Phase.DELETING
        print(f"Commit beside another client's deletion of what is in use: {1000 * spent:.0f} ms")
        print(f"that deletion: {said}")
        assert deletion.returncode == 0
        wait_until("it is gone", lambda: _phase(rig, copy) is Phase.GONE)
    rig.assert_nothing_left()

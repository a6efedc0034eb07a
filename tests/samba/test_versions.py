"""Backups in Previous Versions, as clients see them."""

import os
import re
import signal
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.kernel import autofs, files
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase
from samba_rvss.run import run
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

_LISTED = re.compile(r"^@GMT-\S+$", re.MULTILINE)


def _listed(rig: "Rig") -> list[str]:
    """Return the versions that a client is told of, the newest first."""
    words = ["smbclient", f"//{rig.samba.address}/vms", "-U"]
    user = f"{rig.operator.name}%{rig.operator.password}"
    return _LISTED.findall(run([*words, user, "-c", "allinfo data"], timeout=60))


def test_backups_are_previous_versions(rig: "Rig") -> None:
    from samba_rvss.testing.smbclient import SmbError

    volume = rig.volume()
    options = rig.previous_options("vms", volume) | {"rvss:keep": "yes"}
    rig.share("vms", volume, options)
    rig.start()
    directory = rig.daemon.run_directory / "previous" / "vms"

    def mounted() -> list[str]:
        return [path for path in rig.mounts() if path.startswith(f"{directory}/")]

    def wait_for(*names: str) -> None:
        wait_until(
            lambda: f"{names} are there: {os.listdir(directory)}",
            lambda: sorted(os.listdir(directory)) == list(names),
            60,
        )

    with rig.client() as client, rig.session("vms") as session:
        names, ids = [], []
        for text in (b"first", b"second"):
            (volume / "data").write_bytes(text)
            taken = rig.expose(client, "vms")
            taken.complete()
            (copy,) = rig.wait_for_phase(Phase.SEALED)
            names.append(Path(copy.previous_path).name)
            ids.append(copy.id)
            taken.delete()
            # Two of one second may have each other's place in names.
            while datetime.now(UTC) < copy.created + timedelta(seconds=1):
                time.sleep(0.02)
        # The client has deleted them: they are still there, and nothing is mounted for that.
        (volume / "data").write_bytes(b"now")
        first, second = names
        wait_for(first, second)
        assert mounted() == []
        assert session.read(f"{first}\\data") == b"first"
        assert mounted() == [str(directory / first)]
        assert _listed(rig) == [second, first]
        assert session.read(f"{second}\\data") == b"second"
        with pytest.raises(SmbError):
            session.write(f"{first}\\data", b"")
        with pytest.raises(SmbError):
            session.remove(f"{first}\\data")
        assert rig.command("reconcile", "--dry-run").returncode == 0
        # What nobody uses any more is unmounted, and is there again for who looks.
        with files.opened(os.open(directory, files.DIRECTORY)) as root:
            while autofs.expire(root, at_once=True):
                pass
        assert mounted() == []
        # A shadow copy is beside them.
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        assert mounted() == [copy.previous_path]
        assert session.read(f"{first}\\data") == b"first"
        # Killed, and started again.
        rig.daemon.kill()
        with pytest.raises(SmbError):
            session.read(f"{second}\\data")
        third = Path(copy.previous_path).name
        assert session.read(f"{third}\\data") == b"now"
        rig.daemon.start()
        assert session.read(f"{third}\\data") == b"now"
        wait_for(first, second, third)
        assert session.read(f"{first}\\data") == b"first"
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        # Whoever looks into one keeps nobody from deleting it, and sees that it has gone.
        assert session.read(f"{first}\\data") == b"first"
        assert str(directory / first) in mounted()
        done = rig.command("delete", ids[0])
        assert done.returncode == 0, done.stderr
        with pytest.raises(SmbError):
            session.read(f"{first}\\data")
        wait_for(second, third)
        if rig.fs.kind == "btrfs":
            # Another directory that takes the place of the share's has none of its backups.
            aside = volume.with_name("aside")
            volume.rename(aside)
            volume.mkdir()
            rig.share("vms", volume, options | {"rvss:previous versions limit": "9"})
            os.kill(rig.daemon.pid, signal.SIGHUP)
            wait_for(third)
            wait_until(
                lambda: "status tells of it",
                lambda: "does not show 1 of its backups" in rig.command("status").stdout,
                60,
            )
            volume.rmdir()
            aside.rename(volume)
        # No more than the newest, also of both together.
        rig.share("vms", volume, options | {"rvss:previous versions limit": "1"})
        os.kill(rig.daemon.pid, signal.SIGHUP)
        wait_for(third)
        assert session.read(f"{third}\\data") == b"now"
        rig.share("vms", volume, options)
        os.kill(rig.daemon.pid, signal.SIGHUP)
        wait_for(second, third)
        assert _listed(rig) == [third, second]
        taken.delete()
        wait_for(second, third)
        assert rig.command("delete", *_backups(rig)).returncode == 0
    rig.assert_nothing_left()


def _backups(rig: "Rig") -> list[str]:
    """Return the ids of the backups, the oldest first."""
    path = rig.daemon.state_directory / "ledger.db"
    with closing(Ledger(str(path), read_only=True)) as ledger:
        return [copy.id for copy in ledger.backups()]

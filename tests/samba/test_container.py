"""smbd in a container, samba-rvss on the host: what happens to a copy there happens in it too."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.kernel import mounttable, processes
from samba_rvss.model import Context, Phase
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.container import ContainerSmbd
from tests.samba.filesystems import FileSystem, only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

pytestmark = [pytest.mark.require("root", "smbd", "podman"), only("btrfs")]

_REFUSED = "NT_STATUS_(MEDIA_WRITE_PROTECTED|ACCESS_DENIED)"


@pytest.fixture
def private_samba(file_system: FileSystem) -> Iterator[ContainerSmbd]:
    """The rig's Samba, in a container."""
    with ContainerSmbd() as samba:
        yield samba


def _seen_inside(rig: "Rig", samba: ContainerSmbd) -> list[str]:
    """Return the recovery mounts that the container has."""
    raw = Path(f"/proc/{samba.processes()[0]}/mountinfo").read_bytes()
    prefix = f"{rig.daemon.run_directory}/"
    return [mount.target for mount in mounttable.mountinfo(raw) if mount.target.startswith(prefix)]


def _assert_sealed(rig: "Rig", exposed: str, previous: str) -> None:
    """Fail unless a client finds what it wrote, and can write no more."""
    from samba_rvss.testing.smbclient import SmbError

    with rig.session(exposed) as session, rig.session("vms") as base:
        assert session.read("data") == base.read(f"{previous}\\data") == b"recovered"
        assert session.read("new") == b"made"
        for name in ("data", "late"):
            with pytest.raises(SmbError, match=_REFUSED):
                session.write(name, b"late")
        assert base.read("data") == b"from the source\n" * 64


def test_whole_sequence(rig: "Rig", private_samba: ContainerSmbd) -> None:
    from samba_rvss.testing.smbclient import SmbError

    volume, samba = rig.volume(), private_samba
    rig.share("vms", volume, rig.previous_options("vms", volume))
    # What is mounted at the run directory itself has to be there before the container is.
    rig.daemon.start()
    samba.show(volume)
    samba.follow(rig.daemon.run_directory)
    samba.start()
    with rig.client() as client:
        taken = CopySet(client, Context.AUTO_RECOVERY)
        taken.check("vms")
        taken.prepare("vms")
        taken.commit()
        (worker,) = samba.worker_pids()
        assert processes.mount_namespace(worker) != processes.mount_namespace(os.getpid())
        (exposed,) = taken.expose()
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        # By the container's own mount, whose writers nobody on the host can count.
        inside = Path(f"/proc/{worker}/root{copy.path}")
        with rig.session(exposed) as session, (inside / "new").open("wb", buffering=0) as held:
            session.write("data", b"recovered")
            held.write(b"made")
            file = session.open("data", write=True)
            file.write(b"recovered")
            taken.complete()
            rig.wait_for_phase(Phase.SEALED)
            told = rig.command("status")  # it looks for Samba's programs in the container
            assert told.returncode == 0, told.stdout
            with pytest.raises(SmbError):
                file.write(b"late")
            with suppress(OSError):  # it may go where nobody looks any more
                os.pwrite(held.fileno(), b"late", 0)
    previous = Path(copy.previous_path).name
    _assert_sealed(rig, exposed, previous)
    # Another container, which is born with the mounts that are there.
    samba.stop()
    assert samba.kept() == []
    samba.start()
    assert sorted(_seen_inside(rig, samba)) == sorted(rig.mounts())
    _assert_sealed(rig, exposed, previous)
    with rig.client() as client:
        taken.client = client
        taken.delete()
    rig.assert_nothing_left()
    assert _seen_inside(rig, samba) == []
    samba.stop()
    assert samba.kept() == []

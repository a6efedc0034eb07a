"""The stage of the demonstration: a file system, a Samba, a samba-rvss, a user and a machine.

Place: acts on the rigs of `samba_rvss.testing`. Contract: whatever `perform` made is gone when it
returns or raises.
"""

import os
import shutil
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from samba_rvss.demo.play import DISK, SECONDS, SHARE, Play
from samba_rvss.demo.reporter import Reporter
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.testing import machine as virtual
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.machine import Machine
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import BackupOperator

TOOLS = ("mkfs.btrfs", "losetup", "smbd", "net", "smbpasswd", "useradd", "qemu-img", "qemu-io")
"""The programs that the demonstration needs."""


def perform(reporter: Reporter, parent: Path) -> None:
    """Set the stage, play, and clear everything away.

    Args:
        reporter: told as it goes on.
        parent: where to make the directory with the file system's file; every user must be able
            to walk there.

    Raises:
        RvssError: what a step failed with. What the reporter's ``look`` raises comes through.
    """
    stage = reporter.stage
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="rvss-demo-", dir=parent))
        stack.callback(shutil.rmtree, directory)
        directory.chmod(0o755)
        client_directory = directory / "client"
        client_directory.mkdir(mode=0o700)
        with stage("make a btrfs on a loop device") as saw:
            file_system = stack.enter_context(LoopBtrfs(directory, size=1 << 30))
            share = file_system.subvolume("data", 0o755) / SHARE
            share.mkdir()
            # What is beside the share must not be seen in its copy.
            (share.parent / "beside.txt").touch()
            saw.append(f"{file_system.device} at {file_system.path}")
        with stage("configure a private Samba") as saw:
            samba = stack.enter_context(PrivateSmbd())
            daemon = stack.enter_context(RvssDaemon(samba))
            samba.set_share(SHARE, daemon.share(SHARE, share))
            saw.append(f"{samba.configuration}, at {samba.address}")
        with stage("make a Backup Operator") as saw:
            operator = stack.enter_context(BackupOperator(samba))
            saw.append(f"{operator.name}, uid {operator.uid}")
        with stage("start samba-rvss") as saw:
            daemon.start()
            saw.append(f"process {daemon.pid}")
        with stage("start smbd"):
            samba.start()
        stack.push(partial(_keep_logs, reporter, samba, daemon))
        with stage("make a virtual disk of known content") as saw:
            disk, known = share / DISK, directory / "known.raw"
            virtual.make_disk(disk, known)
            for path in (share, disk):
                os.chown(path, operator.uid, -1)
            saw.append(f"{virtual.KNOWN >> 20} MiB in a VHDX of {virtual.SIZE >> 30} GiB")
        with stage("start a machine that writes to it") as saw:
            machine = stack.enter_context(Machine(disk, uid=operator.uid, gid=disk.stat().st_gid))
            machine.wait_until(20)
            saw.append(f"{machine.done} writes so far")
        with stage("connect to FSRVP") as saw:
            client = stack.enter_context(Client(samba.address, operator.logon, timeout=SECONDS))
            saw.append(f"as {operator.name}")
        play = Play(
            reporter=reporter,
            file_system=file_system,
            samba=samba,
            daemon=daemon,
            operator=operator,
            disk=disk,
            known=known,
            client_directory=client_directory,
        )
        play.back_up(client, machine)
        machine.stop()
        play.look_at_source(machine.done)


def _keep_logs(
    reporter: Reporter,
    samba: PrivateSmbd,
    daemon: RvssDaemon,
    kind: type[BaseException] | None,
    value: BaseException | None,
    traceback: TracebackType | None,
) -> bool:
    if value is not None or not all(check.ok for check in reporter.checks):
        reporter.logs.update({"samba-rvss": daemon.log(), "rpcd_fsrvp": samba.log()})
    return False

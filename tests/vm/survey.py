"""Everything of a machine that `invariants` judges, as it is seen from inside of it.

Place: beside `driver`, which runs there. Contract: it changes nothing, but for a write to each
exposed share that must refuse it; each backup is mounted for a moment.
"""

import hashlib
import io
import json
import os
import re
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from samba_rvss import cli
from samba_rvss.cli.listing import as_data
from samba_rvss.copies import identity
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, processes
from samba_rvss.ledger import Ledger
from samba_rvss.model import Identity, Image, Phase, ShadowCopy
from samba_rvss.mounts import Mounts
from samba_rvss.providers import Provider
from samba_rvss.providers.all import providers
from samba_rvss.providers.btrfs.parts import image_of
from samba_rvss.samba import fss_state, registry
from samba_rvss.samba.logon import Logon
from samba_rvss.testing.smbclient import Session, SmbError

HOST = "127.0.0.1"
LOGON = Logon(user="requestor", password="secret")
UNITS = ("samba-rvss.service", "smbd.service")
NAME, DATA = "name", "data"
"""Files in the shares: which content it is, and the content."""

_CONF = "/etc/samba/smb.conf"
_RUN = "/run/samba-rvss"
_INSTANCE = Path("/var/lib/samba-rvss/instance")
_LEDGER = "/var/lib/samba-rvss/ledger.db"
_FSS = "/run/samba/srv_fss.tdb"
_SAMBA_STATE = "/var/lib/samba"


def digest(content: bytes) -> str:
    """Return a short name for what a file holds."""
    return hashlib.sha256(content).hexdigest()[:24]


def output(*argv: str) -> str:
    """Return what a program prints, whatever its exit status."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def command(*words: str, missing: bool = False) -> str:
    """Run the command samba-rvss in this process, as its start takes seconds here.

    Args:
        words: its arguments.
        missing: whether it may be that there is nothing of the kind.

    Returns:
        what it prints.

    Raises:
        RvssError: TOOL if it fails.
    """
    text, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(text), redirect_stderr(errors):
        status = cli.main([*words])
    if status and not (missing and status == Problem.NOT_FOUND):
        said = f"samba-rvss {' '.join(words)}: {status}: {errors.getvalue()}"
        raise RvssError(Problem.TOOL, said)
    return text.getvalue()


def _identity() -> Identity:
    return Identity(
        id=_INSTANCE.read_text().strip() if _INSTANCE.exists() else "",
        machine=identity.machine(),
        run_directory=_RUN,
    )


def ledger() -> list[ShadowCopy]:
    """Return what the ledger has that is not gone: shadow copies, and those that have ended."""
    record = Ledger(_LEDGER, read_only=True)
    try:
        return [*record.copies(), *record.backups()]
    finally:
        record.close()


def shares_again() -> dict[str, str]:
    """Return the shares that lead to backups or writable copies of them, with their paths."""
    return registry.our_shares(_CONF, _SAMBA_STATE, f"{_RUN}/shared")[1]


def backups() -> list[dict[str, Any]]:
    """Return what is said of each backup, and what is in it where it is mounted."""
    listed = json.loads(command("backup", "list", "--json"))["backups"]
    return [{**backup, "mounted": _mounted(backup["id"])} for backup in listed]


def lose_ledger() -> None:
    """Take the ledger away, and let samba-rvss start without it."""
    for file in Path(_LEDGER).parent.glob(f"{Path(_LEDGER).name}*"):
        file.unlink()
    subprocess.run(["systemctl", "restart", UNITS[0]], check=True)


def _without_containers(text: str) -> str:
    """Return lines that begin with names of datasets, as if clones were not in containers."""
    text = re.sub("^tank/samba-rvss/[0-9]+$", "", text, flags=re.M)
    return re.sub("^tank/samba-rvss/[0-9]+/", "tank/samba-rvss/", text, flags=re.M)


def look() -> dict[str, Any]:
    """Return all that `invariants` judges, as JSON has it."""
    known = ledger()
    ended = [copy for copy in known if copy.ended or copy.phase is Phase.KEPT]
    copies = [copy for copy in known if copy not in ended]
    mounts = Mounts(_RUN)
    images = [(p, image) for p in providers(_identity()) for image in p.inventory().images]
    kept = backups()
    shown_again = {each["share"]: each for backup in kept for each in backup["exposed"]}
    samba = fss_state.read(_FSS)
    datasets = output("zfs", "list", "-H", "-t", "all", "-o", "name", "-r", "tank").split()
    snapshots = [name for name in datasets if "@" in name]
    holds = _without_containers(output("zfs", "holds", "-H", *snapshots) if snapshots else "")
    datasets = _without_containers("\n".join(datasets)).split()
    ours = [name for name in datasets if "@rvss-" in name or name.startswith("tank/samba-rvss/")]
    stats = output("btrfs", "device", "stats", "/srv/btrfs").splitlines()
    messages = output("dmesg", "--level=emerg,alert,crit,err").splitlines()
    return {
        "boot": processes.boot_id(),
        "copies": [as_data(copy) for copy in copies],
        "ended": [copy.id for copy in ended if copy.phase is not Phase.KEPT],
        "backups": kept,
        "images": [
            {"id": i.id, "read_only": i.read_only, "of": i.mark.branch.of if i.mark.branch else ""}
            for _, i in images
        ],
        "written": {image.id: _written(p, image) for p, image in images if image.mark.branch},
        "mounts": {path: shown(path) for path in mounts.listing()},
        "directories": mounts.directories(),
        "shares": registry.exposed_shares(_CONF, _SAMBA_STATE),
        "shared": shares_again(),
        "descriptors": registry.exposed_descriptors(_SAMBA_STATE),
        "sets": [str(each.id) for each in samba.sets] if samba else None,
        "lock": output("stat", "-f", "-c", "%T", "/run/samba").strip(),
        "served": {
            **{copy.exposed_share: _served(copy.exposed_share) for copy in copies},
            **{
                share: _served(share, writable=each["writable"])
                for share, each in shown_again.items()
                if share
            },
        },
        "zfs": ours,
        "holds": [" ".join(line.split("\t")[:2]) for line in holds.splitlines()],
        "btrfs": _btrfs(),
        "units": {unit: _unit(unit) for unit in UNITS},
        "status": json.loads(output("samba-rvss", "status", "--json")),
        "pools": output("zpool", "status", "-x").strip(),
        "devices": [line for line in stats if not line.endswith(" 0")],
        "kernel": [line for line in messages if "BTRFS" in line or "EXT4" in line or "ZFS" in line],
    }


def shown(path: str) -> dict[str, Any]:
    """Return what is in a recovery mount, and whether it is read-only."""
    name = Path(path, NAME)
    return {
        "read_only": bool(os.statvfs(path).f_flag & os.ST_RDONLY),
        "name": name.read_text("utf-8") if name.exists() else "",
        "files": {file.name: digest(file.read_bytes()) for file in sorted(Path(path).iterdir())},
    }


def _mounted(backup: str) -> dict[str, Any]:
    """Return what is in a backup, of one share, as it is mounted for somebody who looks into it."""
    try:
        (path,) = command("backup", "mount", backup).splitlines()
    except RvssError as exc:
        return {"read_only": False, "name": "", "files": {}, "error": str(exc)}
    try:
        return shown(path)
    finally:
        command("backup", "umount", backup)


def _written(provider: Provider, image: Image) -> dict[str, Any]:
    """Return what is in a writable copy of a backup, whether it is exposed or concealed."""
    try:
        parts = provider.open(image.mark.volume, image.id)
    except RvssError as exc:
        return {"files": {}, "error": str(exc)}
    with files.all_opened(fd for _, fd in parts):
        return shown(f"/proc/self/fd/{parts[0][1]}")


def _served(share: str, *, writable: bool = False) -> dict[str, Any]:
    """Return what a client gets of a share, and what its write comes to.

    Args:
        share: its name.
        writable: whether it is to be; then nothing is written.
    """
    if not share:
        return {}
    try:
        with Session(HOST, share, LOGON) as session:
            files = {file: digest(session.read(file)) for file in session.list()}
            try:
                if writable:
                    session.open(DATA, write=True).close()
                else:
                    session.write(DATA, b"not the data")
            except SmbError as exc:
                return {"files": files, "write": exc.name}
            return {"files": files, "write": "success"}
    except SmbError as exc:
        return {"error": str(exc)}


def _btrfs() -> list[str]:
    """Return the ids of what is in our home on the file system, marks and parts, or its name."""
    output("mkdir", "-p", "/run/top")
    subprocess.run(["mount", "-o", "subvolid=5", "/dev/vdd", "/run/top"], check=True)
    try:
        home = Path("/run/top/.samba-rvss")
        if not home.exists():
            return []
        marks = os.listdir(home / ".marks") if (home / ".marks").exists() else []
        parts = [image_of(name) or name for name in os.listdir(home) if name != ".marks"]
        return sorted({*marks, *parts})
    finally:
        subprocess.run(["umount", "/run/top"], check=True)


def _unit(unit: str) -> dict[str, str]:
    names = "ActiveState,NRestarts,ActiveEnterTimestampMonotonic,ExecMainStartTimestampMonotonic"
    lines = output("systemctl", "show", "-p", names, unit).splitlines()
    return dict(line.partition("=")[::2] for line in lines)

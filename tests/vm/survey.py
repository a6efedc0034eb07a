"""Everything of a machine that `invariants` judges, as it is seen from inside of it.

Place: beside `driver`, which runs there. Contract: it changes nothing, but for a write to each
exposed share, which must be refused.
"""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from samba_rvss.cli.listing import as_data
from samba_rvss.copies import identity
from samba_rvss.kernel import processes
from samba_rvss.ledger import Ledger
from samba_rvss.model import Identity, ShadowCopy
from samba_rvss.mounts import Mounts
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


def _identity() -> Identity:
    return Identity(
        id=_INSTANCE.read_text().strip() if _INSTANCE.exists() else "",
        machine=identity.machine(),
        run_directory=_RUN,
    )


def ledger() -> list[ShadowCopy]:
    """Return the ledger's copies."""
    record = Ledger(_LEDGER, read_only=True)
    try:
        return record.copies()
    finally:
        record.close()


def look() -> dict[str, Any]:
    """Return all that `invariants` judges, as JSON has it."""
    copies = ledger()
    mounts = Mounts(_RUN)
    images = [image for p in providers(_identity()) for image in p.inventory().images]
    samba = fss_state.read(_FSS)
    datasets = output("zfs", "list", "-H", "-t", "all", "-o", "name", "-r", "tank").split()
    ours = [name for name in datasets if "@rvss-" in name or name.startswith("tank/samba-rvss/")]
    snapshots = [name for name in datasets if "@" in name]
    holds = output("zfs", "holds", "-H", *snapshots) if snapshots else ""
    stats = output("btrfs", "device", "stats", "/srv/btrfs").splitlines()
    messages = output("dmesg", "--level=emerg,alert,crit,err").splitlines()
    return {
        "boot": processes.boot_id(),
        "copies": [as_data(copy) for copy in copies],
        "images": [{"id": image.id, "read_only": image.read_only} for image in images],
        "mounts": {path: shown(path) for path in mounts.listing()},
        "directories": mounts.directories(),
        "shares": registry.exposed_shares("/etc/samba/smb.conf", _SAMBA_STATE),
        "descriptors": registry.exposed_descriptors(_SAMBA_STATE),
        "sets": [str(each.id) for each in samba.sets] if samba else None,
        "lock": output("stat", "-f", "-c", "%T", "/run/samba").strip(),
        "served": {copy.exposed_share: _served(copy.exposed_share) for copy in copies},
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


def _served(share: str) -> dict[str, Any]:
    """Return what a client gets of a share, and what its write comes to."""
    if not share:
        return {}
    try:
        with Session(HOST, share, LOGON) as session:
            files = {file: digest(session.read(file)) for file in session.list()}
            try:
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

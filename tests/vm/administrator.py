"""What an administrator does with the package, on a machine that has never seen it.

Place: a program in the machine, above `transcript` and `survey`; `test_package` judges what it
tells, which is in a result of the verb's name. `install` is part of setting the machine up,
the others come in their order when everything else is over.
"""

import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.errors import RvssError
from samba_rvss.testing.example import HOOK
from samba_rvss.testing.waiting import wait_until
from tests.vm.survey import LOGON, output
from tests.vm.taking import SETTLE_SECONDS
from tests.vm.transcript import Transcript

SYSTEMS = ("btrfs", "zfs")
SERVICE = "samba-rvss.service"
SOCKETS = ("samba-rvss.socket", "samba-rvss-admin.socket")
TIMERS = (
    "samba-rvss-reconcile.timer",
    "samba-rvss-prune.timer",
    "samba-rvss-manifest.timer",
)
UNITS = (SERVICE, *SOCKETS, *TIMERS)
WATCHDOG_SECONDS = 10

_STATE = "systemctl show --property=Id,ActiveState,UnitFileState"
_CHECK = f"{HOOK} check /srv/btrfs/volume/share"
_DEFINITIONS = "/etc/samba/rvss-backup.conf"
_DROP_IN = f"/run/systemd/system/{SERVICE}.d"
_INSTALL = "apt-get install --quiet --yes"
_KNOWN = "samba-rvss list; samba-rvss backup list"


def install(shell: Transcript, facts: dict[str, Any], package: str) -> None:
    """Install the package, set a share up on each file system, and take shadow copies."""
    shell.type("samba-rvss --version", status=127)
    shell.type(f"{_INSTALL} {package}")
    facts["package"], facts["units"] = _package(shell), _units(shell)
    for system in SYSTEMS:
        shell.type(f"samba-rvss setup {system} --apply")
    shell.type(f"net sam rights grant {LOGON.user} SeBackupPrivilege")
    facts["doctor"] = shell.type("samba-rvss doctor")
    facts["copies"] = _sequence(shell)
    facts["images"] = _images(shell)


def maintain(shell: Transcript, facts: dict[str, Any], _: str) -> None:
    """Let the daemon die, hang, be stopped and be disabled, with copies in use; manage backups."""
    facts["killed"] = _kill(shell)
    facts["hung"] = _hang(shell)
    shell.remark("Stopped, the next callout starts it; disabled and enabled, all of it is back")
    shell.type(f"systemctl stop {SERVICE}")
    shell.type(_CHECK)
    facts["called"] = _units(shell)
    shell.type(f"systemctl disable --now {' '.join(UNITS)}")
    shell.type(f"systemctl enable --now {SERVICE}")
    facts["enabled"] = _units(shell)
    facts.update(_manage(shell))


def upgrade(shell: Transcript, facts: dict[str, Any], package: str) -> None:
    """Install a newer package while two copies are open, and callouts come all the time."""
    shell.remark("Upgraded, while a set of two shadow copies is open for recovery")
    began = output("date", "+%F %T").strip()
    answers: list[str] = []

    def install_it() -> None:
        loop = f"while :; do {_CHECK} && echo answered; sleep 1; done"
        with subprocess.Popen(
            ["sh", "-c", loop], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as calling:
            shell.type(f"{_INSTALL} {package}")
            calling.terminate()
            answers.extend(calling.communicate()[0].splitlines())
        shell.type("samba-rvss list")

    facts["copies"] = _sequence(shell, install_it)
    facts["answers"] = answers
    facts["package"], facts["units"] = _package(shell), _units(shell)
    facts["version"] = shell.type("samba-rvss --version")
    facts["journal"] = shell.type(
        f"journalctl -b --no-pager -o short-monotonic -u {SERVICE} --since '{began}'"
    )


def purge(shell: Transcript, facts: dict[str, Any], _: str) -> None:
    """Purge the package, with copies and backups that are there."""
    shell.remark("Purged, with shadow copies and backups that are there")
    facts["known"] = shell.type(_KNOWN)
    facts["images"] = _images(shell)
    shell.type("apt-get purge --quiet --yes samba-rvss")
    shell.type("dpkg-query -W samba-rvss", status=1)
    facts["left"] = shell.type("ls /var/lib/samba-rvss")
    facts["units"] = shell.type("systemctl list-unit-files --no-legend 'samba-rvss*'", status=1)
    facts["images left"] = _images(shell)


def reinstall(shell: Transcript, facts: dict[str, Any], package: str) -> None:
    """Install it again after that."""
    shell.remark("Installed again")
    shell.type(f"{_INSTALL} {package}")
    facts["known"] = shell.type(_KNOWN)
    shell.type("samba-rvss status")


def _package(shell: Transcript) -> str:
    return shell.type("dpkg-query -W -f '${db:Status-Abbrev} ${Version}\\n' samba-rvss").strip()


def _units(shell: Transcript) -> dict[str, str]:
    """Return of each unit whether it runs and whether it is enabled."""
    told = shell.type(f"{_STATE} {' '.join(UNITS)}", shown=False)
    found = {}
    for block in told.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines())
        found[values["Id"]] = f"{values['ActiveState']} {values['UnitFileState']}"
    shell.type(f"systemctl list-units --plain --no-legend --no-pager {' '.join(UNITS)}")
    return found


def _images(shell: Transcript) -> str:
    """Return all subvolumes and datasets that there are, snapshots included."""
    return shell.type("btrfs subvolume list /srv/btrfs; zfs list -H -o name -t filesystem,snapshot")


def _sequence(shell: Transcript, between: Callable[[], object] = lambda: None) -> list[list[str]]:
    """Do all that a backup program does, with one set of both shares.

    Args:
        between: is called while the copies are open for recovery.

    Returns:
        of each copy what came of writing to it once it was sealed, and what was in it then.
    """
    for system in SYSTEMS:
        shell.rpc(f"fss_is_path_sup {system}")
    told = shell.rpc(f"fss_create_expose backup rw {' '.join(SYSTEMS)}")
    copies = re.findall(r"^(\S+)\((\S+)\): share (\S+) exposed as a snapshot of", told, re.M)
    assert len(copies) == len(SYSTEMS), told
    for _, _, share in copies:
        shell.smb(share, "put /etc/hostname recovered")
    between()
    for _, _, share in copies:
        shell.smb(share, "put /etc/hostname late")
    shell.rpc(f"fss_recovery_complete {copies[0][0]}")
    found = [
        [shell.smb(share, "put /etc/hostname sealed", status=1), shell.smb(share, "ls")]
        for _, _, share in copies
    ]
    shell.type("samba-rvss list")
    for system, (taken, copy, _) in zip(SYSTEMS, copies, strict=True):
        shell.rpc(f"fss_delete {system} {taken} {copy}")
    gone = {copy.lower() for _, copy, _ in copies}
    wait_until("they are deleted", lambda: gone.isdisjoint(_listed()), SETTLE_SECONDS, pause=0.5)
    return found


def _listed() -> list[str]:
    """Return Samba's ids of all copies that there are."""
    told = json.loads(output("samba-rvss", "list", "--json"))
    return [copy["copy_id"] for copy in told["copies"]]


def _manage(shell: Transcript) -> dict[str, str]:
    """Have the units of a managed backup and of manifests do their work; return what came of it."""
    shell.remark("A managed backup, its timer, and the manifests of what it keeps")
    secret = Path(f"{_DEFINITIONS}.secret")
    secret.touch(0o600)
    secret.write_text(f"username = {LOGON.user}\npassword = {LOGON.password}\n")
    lines = ("[nightly]", f"shares = {' '.join(SYSTEMS)}", f"authentication file = {secret}")
    Path(_DEFINITIONS).write_text("".join(f"{line}\n" for line in lines))
    for system in SYSTEMS:
        shell.type(f"sed -i '/^.{system}]/a rvss:manifest = yes' /etc/samba/smb.conf")
    shell.type("systemctl enable --now samba-rvss-backup@nightly.timer")
    timers = shell.type("systemctl list-timers --no-pager --no-legend 'samba-rvss-backup@*'")
    shell.type("systemctl start samba-rvss-backup@nightly.service")
    shell.type("systemctl start samba-rvss-manifest.service")
    shell.type("samba-rvss backup verify")
    shell.type("systemctl disable --now samba-rvss-backup@nightly.timer")
    shell.type("samba-rvss backup list")
    listed = shell.type("samba-rvss backup list --json", shown=False)
    return {"timers": timers, "backups": listed}


def _restarts() -> int:
    return int(output("systemctl", "show", "--value", "--property=NRestarts", SERVICE))


def _restarted(count: int) -> Callable[[], bool]:
    """Return what looks whether the service has been started anew so often, and serves."""
    return lambda: _restarts() == count and _active()


def _active() -> bool:
    return output("systemctl", "is-active", SERVICE).strip() == "active"


def _kill(shell: Transcript) -> str:
    """Kill it; return what systemd says of it afterwards."""
    shell.remark("Killed, it is started again; from now on with a shorter time for its watchdog")
    Path(_DROP_IN).mkdir(parents=True)
    Path(_DROP_IN, "watchdog.conf").write_text(f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n")
    shell.type("systemctl daemon-reload")
    before = _restarts()
    shell.type(f"systemctl kill --signal=KILL {SERVICE}")
    wait_until("it is started again", _restarted(before + 1), SETTLE_SECONDS, pause=0.5)
    return shell.type(f"systemctl status --no-pager --lines=20 {SERVICE}")


def _hang(shell: Transcript) -> str:
    """Stop its process; return its log, after a callout that came meanwhile was answered."""
    shell.remark("Hanging, it is killed by its watchdog; a callout waits, and is answered")
    before = _restarts()
    shell.type(f"systemctl kill --signal=STOP --kill-whom=main {SERVICE}")
    shell.type(_CHECK)
    assert _restarts() == before + 1
    return shell.type(f"journalctl -b --no-pager -o cat -u {SERVICE} --grep watchdog")


def main(argv: Sequence[str]) -> int:
    """Do what the first word says, with the package that the second one names; tell all of it."""
    verb, package = argv
    verbs = {each.__name__: each for each in (install, maintain, upgrade, purge, reinstall)}
    shell = Transcript()
    facts: dict[str, Any] = {"failed": ""}
    try:
        verbs[verb](shell, facts, package)
    except (AssertionError, RvssError, OSError):
        facts["failed"] = traceback.format_exc()
    told = {**facts, "transcript": shell.text}
    Path(os.environ["JOB_RESULTS"], verb).write_text(json.dumps(told), "utf-8")
    return 1 if facts["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

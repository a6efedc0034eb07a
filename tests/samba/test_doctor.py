"""``samba-rvss doctor`` on a real Samba: what only a running one tells, and the self-test."""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samba_rvss.cli import doctor
from samba_rvss.cli.doctor import probe
from samba_rvss.cli.doctor.check import Severity
from samba_rvss.ledger import Ledger
from samba_rvss.samba import conf, server
from samba_rvss.samba.process import SambaProcess
from tests.samba.filesystems import only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

_PROBE = "probe"


def _doctor(rig: "Rig", *words: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Return the exit status, and what each check found that is not good, but for notes."""
    done = rig.command("doctor", "--json", *words)
    assert done.stdout, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        if finding["check"] == _PROBE or finding["severity"] not in ("good", "note"):
            found.setdefault(finding["check"], []).append(finding)
    return done.returncode, found


@only("btrfs")
def test_all_is_well_and_then_it_is_not(rig: "Rig", tmp_path: Path) -> None:
    """The self-test leaves nothing, not even on a share whose copies are kept."""
    rig.share("vms", f"{rig.volume()}/", {"rvss:keep": "yes"})
    rig.start()
    status, found = _doctor(rig, "--probe")
    (probed,), (name,) = found.pop(_PROBE), found.pop("netbios")
    assert (status, found) == (doctor.WARNINGS, {})
    assert "told to connect to RVSSRIG, and nobody here knows its address" in name["what"]
    assert (probed["severity"], probed["share"]) == ("good", "vms")
    assert "the daemon took a shadow copy in" in probed["what"]
    assert "Samba was not asked" in probed["what"]
    assert rig.left() == {}

    with closing(SambaProcess()) as samba:
        config = samba.call(conf.load, str(rig.samba.configuration))
        here = samba.call(server.look, config.file)
    trial = probe.Trial(share=config.shares[0], logon=rig.operator.logon)
    (tried,) = probe.run(config, trial, here)
    assert tried.severity is Severity.GOOD, tried
    assert f"{rig.operator.name} took a shadow copy through Samba" in tried.what
    assert "it was read, recovered, sealed and removed" in tried.what
    with closing(Ledger(config.ledger, read_only=True)) as ledger:
        assert not ledger.last_of_shares("kept"), "for a moment it was the newest backup"
    rig.assert_nothing_left()

    # A share that is added while a worker lives; an smb.conf that its users cannot read.
    who = tmp_path / "who"
    who.write_text(f"username = {rig.operator.name}\npassword = wrong\n")
    with rig.client():
        (worker,) = rig.samba.worker_pids()
        rig.samba.configuration.chmod(0o600)
        os.utime(rig.samba.configuration)
        status, found = _doctor(rig, "--probe", "--authentication-file", str(who))
    (probed,), (stale,) = found[_PROBE], found["stale-worker"]
    assert status == doctor.ERRORS
    assert "NT_STATUS_LOGON_FAILURE" in probed["what"]
    assert f"rpcd_fsrvp {worker} runs since before" in stale["what"]
    assert [finding["severity"] for finding in found["readable"]] == ["error"]
    assert "only root can read" in found["readable"][0]["what"]
    assert rig.left() == {}

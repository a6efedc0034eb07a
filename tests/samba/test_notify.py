"""``rvss:notify command``: an administrator's program hears of what goes wrong."""

import json
from typing import TYPE_CHECKING, Any

from samba_rvss.model import Phase
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import only

if TYPE_CHECKING:
    from pathlib import Path

    from tests.samba.conftest import Rig

_SECONDS = 60.0


def _program(directory: "Path") -> "Path":
    """Return a program that writes down its environment, one JSON object a line."""
    program = directory / "tell"
    program.write_text(
        "#!/usr/bin/python3 -I\n"
        "import json, os, sys\n"
        "line = json.dumps({**os.environ, 'words': sys.argv[1:]}) + '\\n'\n"
        f"open('{directory}/told', 'a').write(line)\n"
    )
    program.chmod(0o700)
    return program


@only("btrfs")
def test_a_program_is_told(rig: "Rig") -> None:
    directory = rig.daemon.state_directory.parent
    program = _program(directory)
    rig.share("vms", rig.volume(), {"rvss:backup warn age": "1 h"})
    rig.samba.set_options({"rvss:notify command": f"{program} --to root"})
    rig.start()

    def told(event: str) -> list[dict[str, Any]]:
        file = directory / "told"
        lines = file.read_text().splitlines() if file.exists() else []
        return [found for line in lines if (found := json.loads(line))["RVSS_EVENT"] == event]

    done = rig.command("notify")
    assert (done.returncode, done.stderr) == (0, ""), done
    (test,) = told("test")
    assert test["words"] == ["--to", "root"]
    wait_until("it is told that there is no backup", lambda: told("stale"), _SECONDS)
    (stale,) = told("stale")
    assert (stale["RVSS_SHARE"], "does not exist" in stale["RVSS_REASON"]) == ("vms", True)
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        taken.delete()
    wait_until("it is told of the abort", lambda: told("abort"), _SECONDS)
    (abort,) = told("abort")
    assert abort["RVSS_COPY"] == copy.id
    assert abort["RVSS_CONFIG"] == str(rig.samba.configuration)
    events = json.loads(rig.command("events", "--json", copy.id).stdout)["events"]
    (aborted,) = [event for event in events if event["what"] == "aborted"]
    ids = aborted["copy_id"], aborted["set_id"]
    assert (all(ids), ids) == (True, (abort["RVSS_SAMBA_COPY"], abort["RVSS_SET"]))
    program.write_text("#!/bin/sh\necho 'no such mailbox' >&2\nexit 3\n")
    done = rig.command("notify")
    assert (done.returncode, "no such mailbox" in done.stderr) == (25, True), done
    assert "no such mailbox" in rig.command("status").stdout
    rig.assert_nothing_left()

"""The Debian package on a machine that has never seen the project, and systemd with its units.

It is installed, set up with `samba-rvss setup` on btrfs and on ZFS, and used by rpcclient; after
the reboot (`test_reboot`) its daemon is killed, hangs, is stopped and disabled, and it is purged.
That happens in the background (`boots`), by `administrator`; what it does with SAMBA_RVSS_LONG=1
besides is in `test_upgrade`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from samba_rvss import __version__
from tests.vm import boots
from tests.vm.administrator import SYSTEMS, UNITS, WATCHDOG_SECONDS

pytestmark = pytest.mark.require("vm")

_ALL_ACTIVE = dict.fromkeys(UNITS, "active enabled")
_SEALED = re.compile("NT_STATUS_(MEDIA_WRITE_PROTECTED|ACCESS_DENIED)")


def told(booting: boots.Booting, verb: str) -> Mapping[str, Any]:
    """Return what the administrator's machine told of a verb.

    Raises:
        pytest.fail.Exception: it failed, or one before it.
    """
    found = booting.result(boots.REBOOT)
    for before in ("install", *boots.LATER):
        each: Mapping[str, Any] = found[before]
        if each["failed"]:
            pytest.fail(f"{each['transcript']}\n{each['failed']}", pytrace=False)
        if before == verb:
            return each
    raise AssertionError(f"nobody does {verb}")


def assert_whole(copies: list[list[str]]) -> None:
    """Fail unless each copy of a sequence has what recovery wrote, and takes nothing any more."""
    assert len(copies) == len(SYSTEMS)
    for refused, content in copies:
        assert _SEALED.search(refused), refused
        assert {"recovered", "late"} <= set(content.split()), content
        assert "sealed" not in content.split()


def test_it_is_installed_and_all_units_run_at_once(booting: boots.Booting) -> None:
    """A reboot is not needed for the timers either."""
    install = told(booting, "install")
    assert install["package"] == f"ii  {__version__}"
    assert install["units"] == _ALL_ACTIVE


def test_the_doctor_is_content(booting: boots.Booting) -> None:
    """What the machine itself is like, which is noted, is no fault of the setting up."""
    doctor = told(booting, "install")["doctor"]
    assert set(re.findall(r"^  note +(\w+):", doctor, re.M)) <= {"clock", "volatile"}
    assert re.match(r"\d notes?; \d+ checks are good$", doctor.splitlines()[0]), doctor


def test_a_whole_sequence_leaves_nothing(booting: boots.Booting) -> None:
    """Samba was running before, and is not restarted."""
    install = told(booting, "install")
    assert_whole(install["copies"])
    # What the images would be in, and no image.
    named = [line.split()[-1] for line in install["images"].splitlines()]
    named = [re.sub("/[0-9]+$", "/GUID", name) for name in named if "rvss" in name]
    assert named == [".samba-rvss", "tank/samba-rvss", "tank/samba-rvss/GUID"]


def test_it_is_started_again_after_sigkill(booting: boots.Booting) -> None:
    killed = told(booting, "maintain")["killed"]
    assert "Active: active (running)" in killed, killed
    assert "Scheduled restart job" in killed, killed


def test_the_watchdog_ends_a_daemon_that_hangs(booting: boots.Booting) -> None:
    """A callout that comes meanwhile waits, and the next daemon answers it."""
    hung = told(booting, "maintain")["hung"]
    assert f"Watchdog timeout (limit {WATCHDOG_SECONDS}s)!" in hung, hung


def test_a_callout_starts_what_is_stopped(booting: boots.Booting) -> None:
    assert told(booting, "maintain")["called"] == _ALL_ACTIVE


def test_enabling_the_service_starts_the_timers_now(booting: boots.Booting) -> None:
    assert told(booting, "maintain")["enabled"] == _ALL_ACTIVE


def test_a_managed_backup_and_its_manifests_are_made_by_their_units(booting: boots.Booting) -> None:
    maintain = told(booting, "maintain")
    assert "samba-rvss-backup@nightly.service" in maintain["timers"]
    backups = json.loads(maintain["backups"])["backups"]
    (made,) = [each for each in backups if each["run"] and each["run"]["name"] == "nightly"]
    assert {part["share"] for part in made["parts"]} == set(SYSTEMS)
    for part in made["parts"]:
        assert part["verified"]["whole"], made
        assert part["verified"]["damaged"] == 0, made


def test_purging_asks_nothing_and_destroys_no_image(booting: boots.Booting) -> None:
    """What is left says whose they are."""
    purge = told(booting, "purge")
    assert purge["images left"] == purge["images"]
    for system in SYSTEMS:
        assert re.search(rf"\b{system}\b.*\bsealed\b", purge["known"]), purge["known"]
    for time in re.findall(r"^(\d+T\d+Z)-", purge["known"], re.M):  # it stands in an image's name
        assert time in purge["images"]
    assert {"instance", "ledger.db"} <= set(purge["left"].split())
    assert purge["units"] == ""

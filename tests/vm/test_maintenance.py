"""The daemon under systemd in its machine, and its package when it is upgraded.

After the reboot it is killed, hangs, is stopped, disabled, upgraded and purged, with shadow copies
and backups that are there; by `administrator`, with SAMBA_RVSS_LONG=1, since it takes the machine
ten minutes.
"""

import pytest

from tests.vm import boots
from tests.vm.administrator import UNITS, WATCHDOG_SECONDS
from tests.vm.packages import NEWER
from tests.vm.test_package import assert_whole, told

pytestmark = pytest.mark.require("vm")

_ALL_ACTIVE = dict.fromkeys(UNITS, "active enabled")


def test_it_is_started_again_after_sigkill(booting: boots.Booting) -> None:
    killed = told(booting, "maintain")["killed"]
    assert "Active: active (running)" in killed, killed


def test_the_watchdog_ends_a_daemon_that_hangs(booting: boots.Booting) -> None:
    """A callout that comes meanwhile waits, and the next daemon answers it."""
    hung = told(booting, "maintain")["hung"]
    assert f"Watchdog timeout (limit {WATCHDOG_SECONDS}s)!" in hung


def test_a_callout_starts_what_is_stopped(booting: boots.Booting) -> None:
    assert told(booting, "maintain")["called"] == _ALL_ACTIVE


def test_enabling_the_service_starts_the_timers_now(booting: boots.Booting) -> None:
    assert told(booting, "maintain")["enabled"] == _ALL_ACTIVE


def test_an_upgrade_disturbs_no_copy_and_no_callout(booting: boots.Booting) -> None:
    """The new code does not meet the old daemon, nor the old daemon's child the new code."""
    upgrade = told(booting, "upgrade")
    assert upgrade["package"] == f"ii  {NEWER}"
    assert upgrade["version"] == f"samba-rvss {NEWER}\n"
    assert upgrade["units"] == _ALL_ACTIVE
    assert_whole(upgrade["copies"])
    assert set(upgrade["answers"]) == {"answered"}, upgrade["answers"]
    assert "Traceback" not in upgrade["journal"]
    assert "another version of samba-rvss" not in upgrade["journal"]


def test_installed_again_it_has_all_that_was_left(booting: boots.Booting) -> None:
    assert told(booting, "reinstall")["known"] == told(booting, "purge")["known"]

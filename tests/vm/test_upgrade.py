"""The package in its machine is upgraded while it is in use, and installed again after a purge.

By `administrator`, with SAMBA_RVSS_LONG=1, since it takes the machine five minutes.
"""

import pytest

from tests.vm import boots
from tests.vm.administrator import UNITS
from tests.vm.packages import NEWER
from tests.vm.test_package import assert_whole, told

pytestmark = pytest.mark.require("vm")


def test_an_upgrade_disturbs_no_copy_and_no_callout(booting: boots.Booting) -> None:
    """The new code does not meet the old daemon, nor the old daemon's child the new code."""
    upgrade = told(booting, "upgrade")
    assert upgrade["package"] == f"ii  {NEWER}"
    assert upgrade["version"] == f"samba-rvss {NEWER}\n"
    assert upgrade["units"] == dict.fromkeys(UNITS, "active enabled")
    assert_whole(upgrade["copies"])
    assert set(upgrade["answers"]) == {"answered"}, upgrade["answers"]
    assert "Traceback" not in upgrade["journal"]
    assert "another version of samba-rvss" not in upgrade["journal"]


def test_installed_again_it_has_all_that_was_left(booting: boots.Booting) -> None:
    assert told(booting, "reinstall")["known"] == told(booting, "purge")["known"]

"""The floor of the test machine: the capability ``vm``, and how to leave it out.

SAMBA_RVSS_NO_VM=1 in the environment (``tests/run`` without ``--vm``) skips what would start one.
"""

import os
from functools import cache

import pytest

from samba_rvss.testing.plugin import CAPABILITIES
from tests.vm import image

NO_VM = "SAMBA_RVSS_NO_VM"

CAPABILITIES["vm"] = cache(image.missing)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what was to be left out; not even SAMBA_RVSS_REQUIRE asks for it then."""
    needs = {name for marker in item.iter_markers("require") for name in marker.args}
    if os.environ.get(NO_VM) and "vm" in needs:
        pytest.skip(f"left out, because {NO_VM} is set; tests/run --vm runs it")

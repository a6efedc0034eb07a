"""The floor of the test machine: the capability ``vm``, and how to leave it out.

SAMBA_RVSS_NO_VM=1 in the environment (``tests/run`` without ``--vm``) skips what would start one.
"""

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from samba_rvss.testing.plugin import CAPABILITIES
from tests.vm import durable, image

NO_VM = "SAMBA_RVSS_NO_VM"

CAPABILITIES["vm"] = cache(image.missing)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what was to be left out; not even SAMBA_RVSS_REQUIRE asks for it then."""
    needs = {name for marker in item.iter_markers("require") for name in marker.args}
    if os.environ.get(NO_VM) and "vm" in needs:
        pytest.skip(f"left out, because {NO_VM} is set; tests/run --vm runs it")


@pytest.fixture(scope="session")
def furnished() -> Iterator[durable.Disks]:
    """Provide the disks of a machine on which everything is set up; others begin as they are."""
    with tempfile.TemporaryDirectory(prefix="rvss-vm-") as directory:
        yield durable.furnished(Path(directory))

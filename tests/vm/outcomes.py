"""Tests that come to each of the ends there are; only test_results.py runs them, in the machine."""

import os

import pytest


def test_passes() -> None:
    assert os.geteuid() == 0


def test_fails() -> None:
    print("said before it failed")
    answer = 42
    assert answer == 43


@pytest.fixture
def broken() -> None:
    raise RuntimeError("the fixture broke")


def test_breaks(broken: None) -> None:
    pass


def test_skips() -> None:
    pytest.skip("nothing to see")


def test_takes_the_machine_down() -> None:
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")


def test_never_runs() -> None:
    pass

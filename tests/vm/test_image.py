"""The image's recipe and the way it is made, as far as that shows without making one."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.testing.waiting import wait_until
from tests.vm import image

_TARGETS = """\
Debian|Debian-Security|http://one.example/security/
Somebody|Debian|http://two.example/
Debian|Debian|http://three.example/debian/
"""


def test_the_mirror_is_the_machines_own() -> None:
    assert image.mirror(_TARGETS) == "http://three.example/debian/"


def test_a_machine_without_debian_knows_no_mirror() -> None:
    assert image.mirror("Ubuntu|Ubuntu|http://four.example/ubuntu/\n") == ""
    assert image.mirror("") == ""


def test_another_recipe_is_another_image() -> None:
    before = image.recipe_hash()
    assert image.recipe_hash() == before
    assert image.recipe_hash({**image.FILES, "etc/motd": "hello\n"}) != before


def test_the_cache_follows_the_users_wishes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert image.cache_directory() == tmp_path / "samba-rvss"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert image.cache_directory() == tmp_path / ".cache" / "samba-rvss"


@pytest.mark.require("root")
def test_a_step_that_fails_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    step = ["sh", "-c", "seq 100; echo no such suite >&2; exit 3"]
    with pytest.raises(RvssError, match="sh ended with status 3") as caught:
        image._logged(step, log, time.monotonic() + 60)
    assert str(caught.value).endswith("\n99\n100\nno such suite")
    assert "\n50\n" not in str(caught.value)


@pytest.mark.require("root")
def test_a_step_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    name = f"300.{os.getpid()}"  # seconds, of our own
    step = ["sh", "-c", f"echo started; setsid sleep {name} & setsid sleep {name}"]
    with pytest.raises(RvssError, match="in time and was killed") as caught:
        image._logged(step, log, time.monotonic() + 2)
    assert caught.value.problem is Problem.DEADLINE
    assert str(caught.value).endswith("\nstarted")
    wait_until("its children are gone", lambda: not _sleepers(name), 10)


def _sleepers(name: str) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if path.read_bytes() == f"sleep\0{name}\0".encode():
                found.append(path)
    return found


def test_one_builder_waits_for_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    image.cache_directory().mkdir()
    with (image.cache_directory() / "vm.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        started = time.monotonic()
        with (
            pytest.raises(RvssError, match="somebody else has been building"),
            image.lock(started + 1),
        ):
            pytest.fail("two builders at once")
        assert 1 <= time.monotonic() - started < 20
    with image.lock(time.monotonic() + 60):
        pass


def test_what_killed_builders_left_and_nobody_uses_goes(tmp_path: Path) -> None:
    for name in ("vm-1", "vm-2", "vm-1.partial", "lint-1"):
        (tmp_path / name / "below").mkdir(parents=True)
    os.utime(tmp_path / "vm-2", (0, 0))
    image._clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lint-1", "vm-1"]

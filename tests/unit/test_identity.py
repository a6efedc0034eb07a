"""Whose an image is: what marks bear, an instance's own id, its name, and who is served here."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.copies import identity
from samba_rvss.daemon import living
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Identity, Phase, Whose
from samba_rvss.providers.mark import encode
from samba_rvss.samba.options import INSTANCE
from tests.unit.values import CONFIG, copy_of, mark_of

RUN = "/run/samba-rvss"
OURS = Identity(id="a" * 32, machine="m", run_directory=RUN)
NAMED = replace(OURS, name="pair")

_HOLDS = """
import fcntl, os, sys, time
sys.path.insert(0, sys.argv[1])
from samba_rvss.daemon import living
from samba_rvss.model import Identity
lock = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
living.announce(lock, Identity(id="b" * 32, name="pair", run_directory="/run/other"))
os.dup2(lock, 200)
os.close(lock)
print("held", flush=True)
deadline = time.monotonic() + 600
while time.monotonic() < deadline:  # what it opens beside is closed while somebody looks
    for fd in [os.dup(0) for _ in range(20)]:
        os.close(fd)
"""


@pytest.mark.parametrize(
    ("ours", "bears", "whose"),
    [
        (OURS, OURS, Whose.OURS),
        (OURS, replace(OURS, machine="n"), Whose.MACHINE),
        (OURS, replace(OURS, id="b" * 32), Whose.INSTANCE),
        (OURS, NAMED, Whose.INSTANCE),
        (NAMED, NAMED, Whose.OURS),
        (NAMED, OURS, Whose.OURS),  # it had no name then
        (NAMED, replace(NAMED, id="b" * 32, machine="n"), Whose.OURS),
        (NAMED, replace(OURS, machine="n"), Whose.MACHINE),
    ],
)
def test_whose(ours: Identity, bears: Identity, whose: Whose) -> None:
    assert ours.whose(*bears.signature) is whose


def test_the_first_form_names_a_run_directory() -> None:
    assert OURS.whose(RUN, "") is Whose.FORMER
    assert OURS.whose("/run/another", "") is Whose.INSTANCE
    assert Identity(id="").whose("", "") is Whose.INSTANCE


@pytest.mark.parametrize("ours", [OURS, NAMED])
def test_an_older_daemon_leaves_new_marks_alone(ours: Identity) -> None:
    """It takes an image for its own if ``instance`` is its run directory, an absolute path."""
    data = json.loads(encode(mark_of("a"), ours))
    assert data["version"] == 1
    assert not data["instance"].startswith("/")


def test_the_id_is_made_once(tmp_path: Path) -> None:
    config = replace(CONFIG, state_directory=str(tmp_path), instance="pair")
    assert identity.read(config).id == ""
    made = identity.make(config)
    assert identity.make(config) == identity.read(config) == made
    assert (len(made.id), made.name, made.signature) == (32, "pair", ("name:pair", ""))
    assert (tmp_path / "instance").stat().st_mode & 0o777 == 0o600
    (tmp_path / "instance").write_text("no id\n")
    with pytest.raises(RvssError, match="is damaged") as caught:
        identity.make(config)
    assert caught.value.problem is Problem.STATE


@pytest.mark.parametrize("name", ["", "pair-1", "a.b_c", "x" * 64])
def test_names(name: str) -> None:
    assert INSTANCE.parse(name) == name


@pytest.mark.parametrize("name", ["x" * 65, "two words", "a/b", "ä", "a\n"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at most 64 letters"):
        INSTANCE.parse(name)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Path]:
    """A lock file that another process of root holds, and says whose it is."""
    lock = tmp_path / "lock"
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, root, str(lock)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield lock
        process.kill()


@pytest.mark.require("root")
def test_who_is_served_here_is_found(holder: Path) -> None:
    for source in ("b" * 32, "name:pair", "/run/other") * 20:
        with pytest.raises(RvssError, match="is served on this machine, by process") as caught:
            living.require_silence(OURS, source)
        assert caught.value.problem is Problem.BUSY
    living.require_silence(OURS, "c" * 32)
    living.require_silence(Identity(id="b" * 32), "name:pair")  # it is ours
    holder.unlink()
    with pytest.raises(RvssError, match="is served"):
        living.require_silence(OURS, "b" * 32)


@pytest.mark.require("root")
def test_one_instance_is_served_once(holder: Path) -> None:
    """Also if its state directory was copied, or two have one name."""
    assert holder.exists()
    for ours in (Identity(id="b" * 32), Identity(id="e" * 32, name="pair")):
        with pytest.raises(RvssError, match="is served on this machine, by process") as caught:
            living.require_alone(ours)
        assert caught.value.problem is Problem.BUSY
    # Two containers have the same paths.
    living.require_alone(Identity(id="e" * 32, run_directory="/run/other"))


@pytest.mark.require("root")
def test_a_file_that_says_so_and_is_not_locked_is_nobody(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        living.announce(lock, Identity(id="d" * 32))
        living.require_silence(OURS, "d" * 32)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RvssError, match=f"by process {os.getpid()}"):
            living.require_silence(OURS, "d" * 32)
    finally:
        os.close(lock)


def test_a_lost_copy_can_come_back(tmp_path: Path) -> None:
    """Its record gives way; that of one that we deleted does not."""
    with closing(Ledger(str(tmp_path / "ledger.db"))) as ledger:
        for name in ("lost", "deleted"):
            ledger.add(copy_of(name), "create")
            ledger.change(copy_of(name), "gone", phase=Phase.GONE, lost=name == "lost")
        assert ledger.gone() == {"lost": ("", None), "deleted": ("", copy_of("deleted").volume)}
        ledger.add(replace(copy_of("lost", Phase.SEALED), adopted=True), "adopted")
        (again,) = ledger.copies()
        assert (again.id, again.adopted, again.lost) == ("lost", True, False)
        with pytest.raises(RvssError, match="UNIQUE"):
            ledger.add(copy_of("deleted"), "adopted")

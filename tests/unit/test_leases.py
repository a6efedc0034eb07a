"""Leases: what is read is not deleted, whoever reads it and however he ends."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samba_rvss.copies import leases
from samba_rvss.errors import Problem, RvssError

_IMAGE = "20261231T235959Z-01234567"


def _refusal(run: Path) -> RvssError:
    with pytest.raises(RvssError) as refused, leases.ending(str(run), _IMAGE):
        pass
    assert refused.value.problem is Problem.BUSY
    return refused.value


def test_readers_keep_it_from_being_deleted_and_a_deletion_keeps_readers_away(
    tmp_path: Path,
) -> None:
    run = str(tmp_path)
    first, second = leases.take(run, _IMAGE), leases.take(run, _IMAGE)
    os.close(first)
    assert f"(pid {os.getpid()})" in str(_refusal(tmp_path))
    os.close(second)
    with leases.ending(run, _IMAGE):
        leases.require_none(run, _IMAGE)  # ours is the only one
        with pytest.raises(RvssError, match="is being deleted"):
            leases.take(run, _IMAGE)
    assert list((tmp_path / "leases").iterdir()) == []
    assert (tmp_path / "leases").stat().st_mode & 0o777 == 0o700


def test_it_belongs_to_whoever_inherits_it(tmp_path: Path) -> None:
    fd = leases.take(str(tmp_path), _IMAGE)
    heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[fd])
    os.close(fd)
    try:
        assert f"(pid {heir.pid})" in str(_refusal(tmp_path))
        with pytest.raises(RvssError, match="is being read by"):
            leases.require_none(str(tmp_path), _IMAGE)
    finally:
        heir.communicate(b"\n")
    leases.require_none(str(tmp_path), _IMAGE)


def test_a_file_that_was_deleted_meanwhile_is_not_taken_for_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deletes the image between our opening its file and our locking it."""
    real, file = fcntl.flock, tmp_path / "leases" / _IMAGE
    cut_in = iter([True])

    def flock(fd: int, how: int) -> None:
        if next(cut_in, False):
            file.unlink()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with_lease = leases.take(str(tmp_path), _IMAGE)
    assert os.path.samestat(os.fstat(with_lease), file.stat())
    os.close(with_lease)


def test_without_a_run_directory_no_daemon_can_know_of_it(tmp_path: Path) -> None:
    with pytest.raises(RvssError) as refused:
        leases.take(str(tmp_path / "none"), _IMAGE)
    assert refused.value.problem is Problem.NO_DAEMON


def test_a_run_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(RvssError, match="others than root may write"):
        leases.take(str(tmp_path), _IMAGE)

"""What a job gets, what it gives back, and what is left of a machine that comes to a bad end."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.processes import descendants
from samba_rvss.testing.waiting import wait_until
from tests.vm import image, machine, qemu

pytestmark = pytest.mark.require("vm")

_JOB = r"""
echo "in $PWD as $(id -u)"
sha256sum LICENSE
echo "given: $GIVEN"
echo "<0>the kernel talks" >/dev/kmsg
echo "to standard error" >&2
printf '%s ' $(systemctl is-enabled smbd nmbd samba-ad-dc); echo
truncate -s 256M /tmp/pool && zpool create tank /tmp/pool && zpool list -H -o name,health
printf 'binary \377 result' >"$JOB_RESULTS/one"
mkdir "$JOB_RESULTS/below" && echo two >"$JOB_RESULTS/below/two"
exit 7
"""


def test_a_job_gets_the_checkout_and_gives_back_all_it_should() -> None:
    heard: list[bytes] = []
    result = machine.run_job(
        ["bash", "-c", _JOB], seconds=600, env={"GIVEN": 'it\'s "this"'}, listen=heard.append
    )
    license_text = Path(machine.__file__).parents[2].joinpath("LICENSE").read_bytes()
    assert result.output.decode().splitlines() == [
        f"in {machine.CHECKOUT} as 0",
        f"{hashlib.sha256(license_text).hexdigest()}  LICENSE",
        'given: it\'s "this"',
        "to standard error",
        "masked masked masked ",
        "tank\tONLINE",
    ]
    assert result.status == 7
    assert dict(result.files) == {"one": b"binary \xff result", "below/two": b"two\n"}
    assert b"".join(heard) == result.output


def test_a_machine_that_crashes_says_so_with_its_last_words() -> None:
    crash = "echo soon over; echo c >/proc/sysrq-trigger; sleep 600"
    with pytest.raises(RvssError, match="ended with status 0 before the job did") as caught:
        machine.run_job(["sh", "-c", crash], seconds=600)
    assert "Kernel panic - not syncing: sysrq triggered crash" in str(caught.value)
    assert "the end of the job's output:\nsoon over" in str(caught.value)


def test_a_machine_that_hangs_is_killed_in_time() -> None:
    qemu.booted(image.image())  # as a rule it is there already
    started = time.monotonic()
    with pytest.raises(RvssError, match="still running after 5 s and was killed") as caught:
        machine.run_job(["sleep", "600"], seconds=5)
    assert caught.value.problem is Problem.TOOL
    assert time.monotonic() - started < 300


def test_nothing_is_left_of_a_machine_whose_owner_was_killed(tmp_path: Path) -> None:
    """Neither a process nor a file."""
    owner = subprocess.Popen(
        [sys.executable, machine.__file__, "run", "--", "sleep", "600"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
    )
    try:
        machines = wait_until("the machine runs", lambda: _machines(owner), 120, pause=0.1)
        time.sleep(2)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    wait_until("its machine is gone", lambda: not any(map(_is_qemu, machines)), 120, pause=0.1)
    assert list(tmp_path.iterdir()) == []


def _machines(owner: "subprocess.Popen[bytes]") -> list[int]:
    assert owner.poll() is None
    return [pid for pid in descendants(owner.pid) if _is_qemu(pid)]


def _is_qemu(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name.startswith("qemu-system")
    except FileNotFoundError:
        return False

"""A host of its own: nothing of it is seen outside, and nothing of it stays."""

import os
import time
from pathlib import Path

import pytest

from samba_rvss.kernel import mounttable
from samba_rvss.testing.host import Host, connect, make_volume
from samba_rvss.testing.supervisor import ROOT
from samba_rvss.testing.waiting import wait_until

pytestmark = pytest.mark.require("root", "btrfs", "loop", "ip")

_NAMES = Path("/etc/nsswitch.conf")


def _outside() -> tuple[object, ...]:
    # What others mount meanwhile, such as other tests, is somewhere temporary.
    mounts = [target for target in mounttable.mount_targets() if not target.startswith("/tmp/")]
    return (os.uname(), sorted(mounts), _NAMES.read_bytes(), os.listdir("/srv"))


def _loops() -> set[str]:
    """Return the loop devices of files that are called as a host's."""
    return {
        device.name
        for device in Path("/sys/block").glob("loop*")
        if (file := device / "loop/backing_file").exists()
        and file.read_text().startswith("/mnt/btrfs")
    }


def test_it_comes_and_goes(reachable: Path) -> None:
    before, loops = _outside(), _loops()
    with Host("one") as one, Host("two") as two:
        connect({one: "198.18.7.1", two: "198.18.7.2"})
        one.call(make_volume, "/srv/vms")
        assert one.run("hostname").strip() == "one"
        assert one.run("findmnt", "-n", "-o", "FSTYPE", "/srv/vms").strip() == "btrfs"
        assert os.listdir(two.path("/srv")) == []
        one.write("/etc/hosts", "127.0.0.1 localhost\n")
        assert "one" not in two.run("cat", "/etc/hosts")
        # What nobody waits for any more is ended too.
        two.run("sh", "-c", f"cd {reachable}; setsid sleep 3600 >/dev/null 2>&1 &")
        assert len(_loops() - loops) == 1
        image = one.path("/mnt/btrfs").stat()
        assert (image.st_size, _outside()) == (512 << 20, before)
        started = two.start("sleep", "3601")
        assert started in two.pids("sleep")
        two.stop(started)
        # Its first process waits as one; the other is started by nobody who waits for that.
        wait_until("both are there", lambda: len(two.pids("sleep")) == 2)
        began = time.monotonic()
    print(f"gone in {time.monotonic() - began:.1f} s")
    assert _outside() == before
    wait_until("its loop device is free", lambda: _loops() <= loops)


# A package's script that edits the file, as libnss-winbind's does.
_INSTALLS = f"""
. {ROOT}/packaging/lib.sh
mkdir -p /run/lock
_keep_services_down() {{ :; }}
apt-get() {{
    case $* in *" install "*) sed -i 's/^passwd:.*/& winbind/' {_NAMES} && at_last ;; esac
}}
"""


@pytest.mark.parametrize("end", ["exit 3", "kill -TERM $BASHPID", "kill -KILL $BASHPID"])
def test_the_packages_of_the_tests_leave_the_name_service_alone(end: str) -> None:
    with Host("one") as one:
        before = one.run("cat", str(_NAMES))
        one.run(
            "bash", "-c", f"{_INSTALLS} at_last() {{ {end}; }}; _apt_install libnss-winbind ||:"
        )
        if "KILL" in end:
            assert one.run("cat", str(_NAMES)) != before
            one.run("bash", "-c", f"{_INSTALLS} install_missing")
        assert one.run("cat", str(_NAMES)) == before
        assert one.run("sh", "-c", "echo /etc/nsswitch.conf*").strip() == str(_NAMES)


def test_what_does_not_edit_the_name_service_is_not_undone() -> None:
    with Host("one") as one:
        before = one.run("cat", str(_NAMES))
        one.run("bash", "-c", f"{_INSTALLS} at_last() {{ :; }}; _apt_install samba")
        assert one.run("cat", str(_NAMES)) != before


def test_a_signal_waits_for_the_package_manager() -> None:
    """Else it would edit the file after that has been put back."""
    with Host("one") as one:
        before = one.run("cat", str(_NAMES))
        goes_on = "bash -c 'kill -TERM $PPID; sleep 0.5; echo again: winbind >>/etc/nsswitch.conf'"
        one.run(
            "bash", "-c", f"{_INSTALLS} at_last() {{ {goes_on}; }}; _apt_install libnss-winbind ||:"
        )
        assert one.run("cat", str(_NAMES)) == before

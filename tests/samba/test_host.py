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
    return (os.uname(), sorted(mounttable.mount_targets()), _NAMES.read_bytes(), os.listdir("/srv"))


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
        assert len(two.pids("sleep")) == 2  # its first process waits as one
        began = time.monotonic()
    print(f"gone in {time.monotonic() - began:.1f} s")
    assert _outside() == before
    wait_until("its loop device is free", lambda: _loops() <= loops)


def test_the_packages_of_the_tests_leave_the_name_service_alone() -> None:
    with Host("one") as one:
        before = one.run("cat", str(_NAMES))
        lines = (
            f". {ROOT}/packaging/lib.sh",
            "edit() { sed -i 's/^passwd:.*/& winbind/' /etc/nsswitch.conf; }",
            "(_keep_names_known samba libnss-winbind; edit; exit 3) || echo $?",
        )
        assert one.run("bash", "-c", "\n".join(lines)) == "3\n"
        assert one.run("cat", str(_NAMES)) == before
        assert one.run("sh", "-c", "echo /etc/nsswitch.conf*").strip() == str(_NAMES)
        one.run("bash", "-c", "\n".join(lines).replace(" libnss-winbind", ""))
        assert one.run("cat", str(_NAMES)) != before

"""Running Sambas: who is a worker, and what samba-dcerpcd says of them, as each words it."""

import subprocess
from pathlib import Path

import pytest

from samba_rvss.kernel.processes import Process, executable_uid
from samba_rvss.samba.control import close_share, connections, is_worker

SAMBA_4_17 = """\
/usr/libexec/samba/rpcd_winreg: active_workers=1
 worker[0]: pid=7, num_clients=3
/usr/libexec/samba/rpcd_fsrvp: active_workers=2
 worker[0]: pid=18903, num_clients=1
 worker[3]: pid=18904, num_clients=0
/usr/libexec/samba/rpcd_classic: active_workers=0
"""
SAMBA_4_22 = """\
/usr/libexec/samba/rpcd_winreg: active_workers=1
 worker[0]: pid=7, num_associations=3, num_connections=3
/usr/libexec/samba/rpcd_fsrvp: active_workers=2
 worker[0]: pid=18903, num_associations=2, num_connections=1
 worker[3]: pid=18904, num_associations=0, num_connections=0
/usr/libexec/samba/rpcd_classic: active_workers=0
"""


@pytest.mark.parametrize("said", [SAMBA_4_17, SAMBA_4_22], ids=["4.17", "4.22"])
def test_connections(said: str) -> None:
    assert connections(said) == {18903: 1, 18904: 0}


@pytest.mark.parametrize("said", ["", "/usr/libexec/samba/rpcd_fsrvp: active_workers=0\n", "?"])
def test_no_connections(said: str) -> None:
    assert connections(said) == {}


@pytest.mark.parametrize(
    ("executable", "saved_uid"),
    [
        ("/home/user/mounted/program", 0),
        ("/home/user/mounted/rpcd_fsrvp", 1000),
        ("/home/user/rpcd_fsrvp/program", 0),
        ("/home/user/not_rpcd_fsrvp", 0),
    ],
)
def test_who_cannot_be_a_worker_has_no_file_looked_at(executable: str, saved_uid: int) -> None:
    """It may be on a file system of a user, who need not answer.

    No process has this number any more: to look at its file fails.
    """
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with pytest.raises(OSError, match=f"/proc/{ended.pid}/exe"):
        executable_uid(ended.pid)
    process = Process(pid=ended.pid, parent=1, uid=0, saved_uid=saved_uid, executable=executable)
    assert not is_worker(process)
    for name in ("rpcd_fsrvp", "rpcd_fsrvp (deleted)"):
        like = Process(
            pid=ended.pid, parent=1, uid=1000, saved_uid=0, executable=f"/usr/libexec/{name}"
        )
        with pytest.raises(OSError, match=f"/proc/{ended.pid}/exe"):
            is_worker(like)


@pytest.mark.require("smbd")
def test_a_share_whose_name_looks_like_an_option(tmp_path: Path) -> None:
    """smbcontrol(1) takes it for a share: all that it misses is a running smbd."""
    file = tmp_path / "smb.conf"
    names = ("pid directory", "lock directory", "state directory", "cache directory")
    file.write_text("[global]\n" + "".join(f"    {name} = {tmp_path}\n" for name in names))
    assert not close_share(str(file), "-V@{0f0e0d0c-0b0a-0908-0706-050403020100}")

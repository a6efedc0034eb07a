"""Who can read smb.conf: Samba opens it as the client's user when it exposes a copy."""

import itertools
import os
import struct
import subprocess
from pathlib import Path

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import permissions
from samba_rvss.kernel.permissions import User
from samba_rvss.samba import readable

pytestmark = [pytest.mark.require("root"), pytest.mark.vm(seconds=0.5)]


@pytest.fixture
def file(reachable: Path) -> Path:
    """An smb.conf that everybody can read."""
    made = reachable / "smb.conf"
    made.touch(0o644)
    return made


_CLIENT = User(uid=54321, gid=54321, groups=(54322,))


def _said(file: Path, user: User | None = _CLIENT) -> str:
    try:
        readable.require(str(file), user)
    except RvssError as exc:
        return str(exc) if exc.problem is Problem.CONFIG else ""
    return ""


@pytest.mark.parametrize("entries", [(), ((0x02, 4, 54321),), ((0x02, 0, 54321), (0x08, 4, 54322))])
def test_permissions_are_what_the_kernel_makes_of_them(
    file: Path, reachable: Path, entries: tuple[tuple[int, int, int], ...]
) -> None:
    users = [_CLIENT, User(uid=54321, gid=54321), User(uid=7, gid=54321), User(uid=0, gid=0)]
    for mode, owner, group in itertools.product((0o604, 0o440, 0o070), (0, 54321), (0, 54322)):
        os.chown(file, owner, group)
        file.chmod(mode)
        if entries:
            some = [(0x01, mode >> 6, -1), *entries, (0x04, mode >> 3 & 7, -1), (0x10, 4, -1)]
            acl = sorted([*some, (0x20, mode & 7, -1)])
            raw = b"".join(struct.pack("<HHi", *entry) for entry in acl)
            os.setxattr(file, "system.posix_acl_access", struct.pack("<I", 2) + raw)
        for user in users:
            test = subprocess.run(
                ["test", "-r", str(file)],
                user=user.uid,
                group=user.gid,
                extra_groups=user.groups,
                check=False,
            )
            lets = all(place.lets(user) for place in permissions.way(str(file)))
            assert lets == (test.returncode == 0), (oct(mode), owner, group, user)
        if entries:
            os.removexattr(file, "system.posix_acl_access")


def test_who_cannot_read_smb_conf(file: Path, reachable: Path) -> None:
    """Samba reads it as the client's user; the same for all is said before anybody asks."""
    name = str(file)
    assert (_said(file), _said(file, None), readable.nobody(name), readable.some(name)) == ("",) * 4
    for change, mode, blamed in ((file, 0o640, "mode 0640"), (reachable, 0o700, "mode 0700")):
        before = change.stat().st_mode
        change.chmod(mode)
        assert f"uid {_CLIENT.uid} cannot read {file}" in _said(file)
        assert blamed in _said(file)
        assert "only root can read" in _said(file, None)
        assert _said(file, User(uid=0, gid=0)) == ""
        assert blamed in readable.nobody(name) == readable.some(name)
        change.chmod(before)
    file.chmod(0o640)
    os.chown(file, 0, _CLIENT.groups[0])
    assert (_said(file), _said(file, None), readable.nobody(name)) == ("", "", "")
    assert "not everybody can read" in readable.some(name)
    assert "cannot read" in _said(file, User(uid=54321, gid=54321))


def test_a_file_of_1970_ends_samba_s_worker(file: Path) -> None:
    os.utime(file, (0, 0))
    assert "1 January 1970" in _said(file, User(uid=0, gid=0))
    assert "1 January 1970" in readable.nobody(str(file))

"""A control group whose processes may open no block device, as in a container without them.

Place: a rig for tests. It needs nothing but a kernel with control groups of version 2, of which it
mounts the hierarchy at a place of its own, whatever else of them is in use. Contract: leaving takes
group and mount away; the processes in it have ended by then.
"""

import ctypes
import os
import platform
import struct
import tempfile
from pathlib import Path

from samba_rvss.kernel import files, mounting
from samba_rvss.kernel.libc import checked, libc
from samba_rvss.run import run
from samba_rvss.testing.undoing import Undoing
from samba_rvss.testing.waiting import wait_until

# bpf(2), linux/bpf.h
_SYS_bpf = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_DEVICE = 15, 6
# It returns 0 if the lower half of access_type is 1, for a block device, and otherwise 1.
_PROGRAM = b"".join(
    struct.pack("=BBhi", code, registers, offset, number)
    for code, registers, offset, number in (
        (0x61, 0x12, 0, 0),  # r2 = context.access_type
        (0x57, 0x02, 0, 0xFFFF),  # r2 &= 0xffff
        (0xB7, 0x00, 0, 1),  # r0 = 1
        (0x55, 0x02, 1, 1),  # if r2 != 1 skip one
        (0xB7, 0x00, 0, 0),  # r0 = 0
        (0x95, 0x00, 0, 0),  # return r0
    )
)


class NoBlockDevices(Undoing):
    """A context manager: the group."""

    def _set_up(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix=f"rvss-{os.getpid()}-"))
        self._undo.callback(directory.rmdir)
        run(["mount", "-t", "cgroup2", "none", str(directory)], timeout=30)
        self._undo.callback(mounting.umount, str(directory))
        self._group = directory / directory.name
        self._group.mkdir()
        self._undo.callback(self._remove)
        code, license_ = ctypes.create_string_buffer(_PROGRAM), ctypes.create_string_buffer(b"GPL")
        with (
            files.opened(
                _bpf(
                    _PROG_LOAD,
                    struct.pack(
                        "=IIQQ",
                        _TYPE_CGROUP_DEVICE,
                        len(_PROGRAM) // 8,
                        ctypes.addressof(code),
                        ctypes.addressof(license_),
                    ),
                )
            ) as program,
            files.opened(os.open(self._group, files.DIRECTORY)) as group,
        ):
            _bpf(_PROG_ATTACH, struct.pack("=IIII", group, program, _ATTACH_DEVICE, 0))

    @property
    def above(self) -> list[str]:
        """What becomes a program in the group, with that program's arguments behind it."""
        return ["sh", "-c", f'echo $$ > {self._group}/cgroup.procs && exec "$@"', "sh"]

    def _remove(self) -> None:
        """Remove the group; the kernel forgets processes a little after they have ended."""
        events = self._group / "cgroup.events"
        wait_until("nobody is in the group", lambda: "populated 0" in events.read_text("ascii"))
        self._group.rmdir()


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, 128)
    number = _SYS_bpf[platform.machine()]
    return checked(libc.syscall(ctypes.c_long(number), command, buffer, ctypes.c_uint(128)))

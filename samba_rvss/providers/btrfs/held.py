"""Who keeps a subvolume from being deleted: for the sentence of an error, never for a decision.

Contract: no file of another process is touched, because it may be on a server that does not answer;
so what /proc does not tell is left out.
"""

from contextlib import suppress

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import processes
from samba_rvss.providers.btrfs import ioctl

_MOST = 5


def refusal(name: str) -> RvssError:
    """Return the error for a subvolume that the kernel permits nobody to delete just now.

    EPERM is what it says to those who may not, and also of a subvolume that is being sent, has an
    active swap file or is the default one (fs/btrfs/inode.c, btrfs_delete_subvolume()).

    Args:
        name: the subvolume's name in the directory that holds it.

    Returns:
        BUSY with who has it open, or with what else it may be; SYSTEM if it is for want of a
        capability.
    """
    if not processes.is_capable(processes.CAP_SYS_ADMIN):
        return RvssError(
            Problem.SYSTEM,
            f"the subvolume {name} cannot be deleted without CAP_SYS_ADMIN",
            "give samba-rvss that capability",
        )
    held = _holders(name)
    if held:
        more = f" and {len(held) - _MOST} more" if len(held) > _MOST else ""
        return RvssError(
            Problem.BUSY,
            f"the subvolume {name} cannot be deleted yet: {', '.join(held[:_MOST])}{more}",
            "it is tried again; a 'btrfs send' of it has to end first",
        )
    return RvssError(
        Problem.BUSY,
        f"the kernel lets nobody delete the subvolume {name}",
        "its log says why: it may be the default subvolume, or have a swap file; or its directory"
        " is immutable (lsattr)",
    )


def _holders(name: str) -> list[str]:
    found = []
    for pid in processes.pids():
        with suppress(OSError):  # it has ended
            found += [
                f"{processes.command(pid)} (pid {pid}) has {file.path} open"
                for file in processes.open_files(pid)
                if file.inode == ioctl.FIRST_FREE_OBJECTID and file.path.endswith(f"/{name}")
            ]
    return found

"""Carrying away: a program that reads a backup where the share is, in a mount namespace of its own.

So its paths are the same from one run to the next, and engines that go by paths find what they know
(restic(1), borg(1)). Contract: nobody else sees those mounts, and nothing is left of them when the
program and its children have ended. They inherit the leases. Meanwhile it keeps no other mount in
use that is unmounted outside, such as that of a shadow copy.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack

from samba_rvss.copies import reading
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting, private
from samba_rvss.model import ShadowCopy
from samba_rvss.samba import values


def run(instance: Instance, parts: Sequence[ShadowCopy], words: list[str]) -> int:
    """Run a program to its end, as whoever we are, with our environment and standard files.

    Args:
        instance: the backup's.
        parts: those of the backup.
        words: the program, which is looked for in PATH, and its arguments.

    Returns:
        Its exit status; 128 and a signal's number if that ended it.

    Raises:
        RvssError: BAD_PATH if a share's directory is not there, or the working directory is one
            that the backup does not have; MISSING if the program cannot be started; as
            `reading.leased` and `reading.opened`.
    """
    by_path = {values.directory(part.share_path): part for part in parts}
    here = _working_directory()
    with ExitStack() as undo:
        held = undo.enter_context(reading.leased(instance, parts))
        # A share's directory may be in that of another, which comes first.
        trees = [(path, reading.opened(instance, by_path[path], undo)) for path in sorted(by_path)]

        def prepare() -> None:
            for path, tree in trees:
                _mount(tree, path)
            if any(f"{here}/".startswith(f"{path.rstrip('/')}/") for path in by_path):
                _enter(here)  # what we are in is the share's own directory

        try:
            return private.run(prepare, words, held)
        except (FileNotFoundError, PermissionError) as exc:
            reason = f"{words[0]} cannot be started: {exc.strerror}"
            raise RvssError(Problem.MISSING, reason) from exc
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot run {words[0]}: {exc.strerror}") from exc


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # it has been removed


def _mount(tree: int, path: str) -> None:
    if path == "/":
        raise RvssError(Problem.BAD_PATH, "nothing can be mounted over /", "use 'backup mount'")
    hint = "it has to be there, without symbolic links; 'samba-rvss backup mount' needs none"
    with files.opened(reading.directory(path, hint)) as fd:
        try:
            mounting.move_mount(tree, fd)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot mount at {path}: {exc.strerror}") from exc


def _enter(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as exc:
        raise RvssError(
            Problem.BAD_PATH,
            f"the working directory {path} is not in the backup ({exc.strerror})",
            "go to another",
        ) from exc

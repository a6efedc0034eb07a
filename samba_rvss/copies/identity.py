"""Which instance this is: an id of its own in the state directory, and the machine that it runs on.

Contract: the id is made once, at random, and durable before it is used; the file is read without
following links. A machine's id is confidential (machine-id(5)), so marks bear a hash of it.
"""

import hashlib
import hmac
import os
import re
import secrets
from contextlib import suppress

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Identity
from samba_rvss.samba.conf import Config

_MACHINE_ID = "/etc/machine-id"
_APPLICATION = b"samba-rvss"
_FORM = re.compile(r"[0-9a-f]{32}")


def read(config: Config) -> Identity:
    """Return an instance's identity, with an empty id if it has never run.

    Raises:
        RvssError: STATE if the file is damaged.
    """
    return Identity(
        id=_read(config.state_directory),
        machine=machine(),
        name=config.instance,
        run_directory=config.run_directory,
    )


def make(config: Config) -> Identity:
    """Return an instance's identity, and make it first if it has none; for its one writer.

    Raises:
        RvssError: STATE if the file is damaged or cannot be made.
    """
    if not _read(config.state_directory):
        try:
            _make(config.state_directory, secrets.token_hex(16))
        except OSError as exc:
            path = _path(config.state_directory)
            raise RvssError(Problem.STATE, f"cannot make {path}: {exc.strerror}") from exc
    return read(config)


def _path(state_directory: str) -> str:
    return f"{state_directory}/instance"


def _read(state_directory: str) -> str:
    path = _path(state_directory)
    try:
        with files.opened(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)) as fd:
            text = os.read(fd, 64).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise RvssError(Problem.STATE, f"cannot read {path}: {exc.strerror}") from exc
    if not _FORM.fullmatch(text):
        raise RvssError(
            Problem.STATE,
            f"{path} is damaged: it must have 32 hexadecimal digits",
            "restore it, or move it away and see 'samba-rvss adopt'",
        )
    return text


def _make(state_directory: str, text: str) -> None:
    with files.opened(os.open(state_directory, files.DIRECTORY)) as directory:
        with suppress(FileNotFoundError):
            os.unlink("instance.new", dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with files.opened(os.open("instance.new", flags, 0o600, dir_fd=directory)) as fd:
            os.write(fd, f"{text}\n".encode())
            os.fsync(fd)
        os.rename("instance.new", "instance", src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)


def machine() -> str:
    """Return a hash of the machine's id; empty if it has none (machine-id(5))."""
    try:
        with open(_MACHINE_ID, "rb") as file:
            text = file.read(64).strip()
    except OSError:
        return ""
    if not re.fullmatch(rb"[0-9a-f]{32}", text):
        return ""
    return hmac.new(text, _APPLICATION, hashlib.sha256).hexdigest()[:32]

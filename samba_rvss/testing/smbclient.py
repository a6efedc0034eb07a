"""A small SMB client whose files stay open for as long as a test wants.

Place: a rig for tests and for the demonstration, over python-samba's libsmb. Contract: a refused
request is an SmbError with the name of its NTSTATUS; a Session owns one connection to one share,
a File one handle of it. Closing the session drops the files that are still open.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from samba import NTSTATUSError
from samba.samba3 import libsmb_samba_internal as libsmb
from samba.samba3 import param as s3param

from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.credentials import load_parm, status_name, ticket
from samba_rvss.samba.logon import Logon

# MS-SMB2 2.2.13
FILE_READ_DATA = 0x1
FILE_WRITE_DATA = 0x2
FILE_APPEND_DATA = 0x4
FILE_SHARE_ALL = 0x7
FILE_OPEN = 1
FILE_OPEN_IF = 3
FILE_OVERWRITE_IF = 5
FILE_ATTRIBUTE_DIRECTORY = 0x10


class SmbError(RvssError):
    """A request that the server refused, or that did not reach it.

    Args:
        what: the request, as a sentence would name it.
        error: what python-samba raised; ``status`` is its number and ``name`` its name.
    """

    def __init__(self, what: str, error: NTSTATUSError) -> None:
        self.status: int = error.args[0]
        self.name = status_name(error)
        super().__init__(Problem.SAMBA, f"{what} failed with {self.name}")


@contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except NTSTATUSError as exc:
        raise SmbError(what, exc) from exc


def _load_globals() -> None:
    """Give libsmb the built-in defaults, unless somebody has loaded a configuration.

    libsmb reads the process's one source3 configuration. If none was loaded, its highest protocol
    is 0 and connecting fails with NT_STATUS_INVALID_PARAMETER_MIX. What another module has loaded
    stays, because Samba's registry is found through it.
    """
    context = s3param.get_context()
    if context.get("client max protocol") is None:
        context.load(os.devnull)


def probe(address: str) -> None:
    """Connect to a server's IPC$ anonymously; nothing is left open.

    Raises:
        SmbError: it does not serve.
    """
    Session(address, "IPC$").close()


class Session(Closing):
    """A connection to one share, usable as a context manager.

    Args:
        address: of the server.
        share: the share's name.
        logon: who connects; anonymous if None.

    Raises:
        SmbError: the server or the share refused.
    """

    def __init__(self, address: str, share: str, logon: Logon | None = None) -> None:
        self._share = share
        _load_globals()
        who = logon or Logon()
        lp = load_parm(who)
        with _naming(f"connecting to {share}"), ticket(who, lp) as creds:
            self._connection: libsmb.Conn | None = libsmb.Conn(address, share, lp=lp, creds=creds)

    def close(self) -> None:
        """Drop the connection, and with it all files that it has open."""
        self._connection = None

    @property
    def connection(self) -> libsmb.Conn:
        """The connection, for requests that have no method here."""
        if self._connection is None:
            raise RvssError(Problem.USAGE, f"the connection to {self._share} has been closed")
        return self._connection

    def open(
        self, name: str, *, write: bool = False, create: bool = False, truncate: bool = False
    ) -> "File":
        """Open a file and keep it open.

        Args:
            name: path in the share, with backslashes.
            write: for writing too; otherwise for reading only.
            create: make it if it is missing.
            truncate: empty it, or make it.
        """
        access = FILE_READ_DATA | (FILE_WRITE_DATA | FILE_APPEND_DATA if write else 0)
        disposition = FILE_OVERWRITE_IF if truncate else FILE_OPEN_IF if create else FILE_OPEN
        with _naming(f"opening {name} in {self._share}"):
            number = self.connection.create(
                name,
                DesiredAccess=access,
                ShareAccess=FILE_SHARE_ALL,
                CreateDisposition=disposition,
            )
        return File(self, name, number)

    def read(self, name: str) -> bytes:
        """Return the contents of a file."""
        with _naming(f"reading {name} in {self._share}"):
            data: bytes = self.connection.loadfile(name)
        return data

    def write(self, name: str, data: bytes) -> None:
        """Make a file, or replace its contents."""
        with _naming(f"writing {name} in {self._share}"):
            self.connection.savefile(name, data)

    def list(self, directory: str = "") -> list[str]:
        """Return the names in a directory, sorted, without those of itself and its parent."""
        with _naming(f"listing {directory or 'the root'} of {self._share}"):
            entries = self.connection.list(directory)
        return sorted(entry["name"] for entry in entries)

    def make_directory(self, name: str) -> None:
        """Make a directory."""
        with _naming(f"making the directory {name} in {self._share}"):
            self.connection.mkdir(name)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with _naming(f"removing {name} in {self._share}"):
            self.connection.unlink(name)


class File(Closing):
    """An open file of a session, usable as a context manager."""

    def __init__(self, session: Session, name: str, number: int) -> None:
        self._session = session
        self._number = number
        self.name = name

    def write(self, data: bytes, offset: int = 0) -> None:
        """Write at an offset (bytes)."""
        with _naming(f"writing to {self.name}"):
            written: int = self._session.connection.write(self._number, data, offset)
        if written != len(data):
            raise RvssError(
                Problem.SAMBA, f"only {written} of {len(data)} bytes were written to {self.name}"
            )

    def read(self, size: int, offset: int = 0) -> bytes:
        """Read at most so many bytes at an offset."""
        with _naming(f"reading from {self.name}"):
            data: bytes = self._session.connection.read(self._number, offset, size)
        return data

    def close(self) -> None:
        """Close the handle."""
        with _naming(f"closing {self.name}"):
            self._session.connection.close(self._number)

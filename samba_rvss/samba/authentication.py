"""Who logs on, as files say: an authentication file, or Samba's own secrets.

Contract: a password goes from the file into a `Logon`, and nowhere else. python-samba has global
state and can block: see `samba_rvss.samba.process`.
"""

import os
import re

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, paths
from samba_rvss.samba.logon import Logon
from samba_rvss.samba.notification import why

_LARGEST = 1 << 16
_OTHERS = 0o077
_END = re.compile(rb"[\r\0]")  # of a line: what follows is not read


def require_private(path: str) -> str:
    """Refuse a file that others than root could replace or read; return its path without links.

    Raises:
        RvssError: REFUSED or MISSING.
    """
    try:
        found = paths.resolve(path, file=True)
        mode = os.lstat(found).st_mode
    except FileNotFoundError as exc:
        raise RvssError(Problem.MISSING, f"there is no file {path}", "write it") from exc
    except (OSError, paths.Replaceable) as exc:
        raise RvssError(
            Problem.REFUSED,
            f"{path} is refused: {why(exc)}",
            "let it be root's, where others can write to nothing on the way",
        ) from exc
    if mode & _OTHERS:
        raise RvssError(
            Problem.REFUSED, f"{path} is refused: others than root may read it", "chmod 600 it"
        )
    return found


def from_file(path: str, *, use_kerberos: bool = False) -> Logon:
    """Read a user and his password as smbclient(1) does.

    A password can end with blanks, and hold what Python takes for the end of a line
    (auth/credentials/credentials.c, cli_credentials_parse_file(); lib/util/util_file.c,
    file_lines_parse_internal()). No user and no domain ends with a blank.

    Raises:
        RvssError: CONFIG.
    """
    values: dict[bytes, bytes] = {}
    try:
        with files.opened(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)) as fd:
            text = os.read(fd, _LARGEST)
    except OSError as exc:
        raise RvssError(Problem.CONFIG, f"cannot read {path}: {exc.strerror}") from exc
    for line in text.split(b"\n"):
        name, equals, value = _END.split(line, maxsplit=1)[0].partition(b"=")
        if equals:
            values[b"".join(name.split()).lower()] = value.lstrip(b" \t")
    user, password, domain = (
        values.get(name, b"").decode("utf-8", "surrogateescape")
        for name in (b"username", b"password", b"domain")
    )
    if not user.strip():
        raise RvssError(Problem.CONFIG, f"{path} has no line 'username = …'", "write one")
    return Logon(
        user=user.strip(), password=password, domain=domain.strip(), use_kerberos=use_kerberos
    )


def of_machine(configfile: str, *, use_kerberos: bool) -> Logon:
    """Return the account that this machine has in its domain, by Samba's secrets.tdb.

    Raises:
        RvssError: CONFIG if smb.conf cannot be read; NOT_FOUND if there is no such account.
    """
    from samba.credentials import Credentials
    from samba.param import LoadParm

    from samba_rvss.samba.parser import open_context, samba_speaks

    context = open_context(configfile)
    # A configuration of its own: the whole smb.conf cannot be loaded here, see `logon.load_parm`.
    lp = LoadParm(filename_for_non_global_lp=os.devnull)
    for name in ("private dir", "workgroup", "realm", "netbios name"):
        if value := context.get(name):
            lp.set(name, str(value))
    made = Credentials()
    with samba_speaks():
        made.guess(lp)
        try:
            made.set_machine_account(lp)
            password = made.get_password()
        except (RuntimeError, OSError):
            password = None
    if not password:
        raise RvssError(
            Problem.NOT_FOUND,
            "this machine has no account in a domain",
            "'net ads join' makes one; or use an 'authentication file'",
        )
    realm = str(context.get("realm") or "")
    return Logon(
        user=str(made.get_username()),
        password=str(password),
        domain=realm if use_kerberos else str(context.get("workgroup")),
        use_kerberos=use_kerberos,
    )

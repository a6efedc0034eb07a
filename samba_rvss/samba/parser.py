"""smb.conf as Samba's own parser reads it, and the shares in its registry: sections of text.

Nothing here changes anything. python-samba keeps global state and can block: see
`samba_rvss.samba.process`.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.values import Parameters, joined

# A registry share that ExposeShadowCopySet made: source3/rpc_server/fss/srv_fss_agent.c,
# map_share_name().
EXPOSED = re.compile(r"(?P<share>.+)@\{(?P<copy>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}\$?")
_IN_ANY_CASE = re.compile(EXPOSED.pattern, re.IGNORECASE)


def exposed_copy(share: str) -> str:
    """Return Samba's id of the copy that a share exposes; of another share, its name.

    By it names can be compared that Samba has put into lower case: its tables of letters are its
    own (lib/util/charset/codepoints.c).
    """
    match = _IN_ANY_CASE.fullmatch(share)
    return match["copy"].lower() if match else lower_case(share)


def lower_case(name: str) -> str:
    """Return a name in lower case as Samba has it but for rare letters: one letter for each."""
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in name)


@contextmanager
def samba_speaks() -> Iterator[list[str]]:
    """Catch what Samba's libraries write to standard error; the list is filled at the end."""
    said: list[str] = []
    saved = os.dup(2)
    sink = os.memfd_create("samba-stderr")
    try:
        os.dup2(sink, 2)
        yield said
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        size = os.fstat(sink).st_size
        text = os.pread(sink, min(size, 4096), 0).decode("utf-8", "replace")
        os.close(sink)
        said.extend(line for line in text.splitlines() if "talloc stackframe" not in line)


def open_context(configfile: str) -> Any:
    """Let Samba's parser read a configuration file.

    Raises:
        RvssError: CONFIG if the file cannot be read or Samba does not accept it.
    """
    from samba.samba3 import param

    context = param.get_context()
    path = configfile or context.configfile or "/etc/samba/smb.conf"
    if not os.access(path, os.R_OK):
        why = "" if os.path.exists(path) else ", which does not exist"
        raise RvssError(Problem.CONFIG, f"cannot read {path}{why}", "name another file with -s")
    with samba_speaks() as said:
        try:
            context.load(path)
            failed = False
        except RuntimeError:
            failed = True
    if failed:
        raise RvssError(
            Problem.CONFIG,
            f"Samba does not accept {path}: {'; '.join(said) or 'no reason given'}",
            "run testparm on it",
        )
    return context


def sections_of(context: Any) -> dict[str, Parameters]:
    """Return every section of a file as Samba resolved it."""
    return {
        name: Parameters({key: _value(context, name, key, text) for key, text in section.items()})
        for name, section in _dumped(context.dump).items()
    }


def inherited(context: Any, globals_: Mapping[str, str]) -> Parameters:
    """Return the parameters of [global] that hold for shares."""
    others = Parameters(*_dumped(context.dump_globals).values())
    return Parameters(
        {key: text for key, text in globals_.items() if ":" in key or key not in others}
    )


def _dumped(dump: Callable[[bool, str], None]) -> dict[str, dict[str, str]]:
    sink = os.memfd_create("smb.conf")
    try:
        with samba_speaks():
            defaults = False
            dump(defaults, f"/proc/self/fd/{sink}")
        size = os.fstat(sink).st_size
        text = os.fsdecode(os.pread(sink, size, 0))
    finally:
        os.close(sink)
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    # lib/param/loadparm.c, lpcfg_dump_globals() and lpcfg_dump_a_service()
    for line in text.split("\n"):
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], {})
        elif line.startswith("\t"):
            key, _, value = line[1:].partition(" = ")
            current[key] = value
    return sections


def _value(context: Any, section: str, key: str, text: str) -> str:
    """Return the text of a value, given how Samba prints it: an entry of a list without quotes.

    Source: lib/param/loadparm.c, lpcfg_print_parameter().
    """
    if ":" in key or not re.search("[,;\t\r]|  ", text):
        return text
    try:
        value = context.get(key, section)
    except UnicodeError:
        return text
    return joined(value) if isinstance(value, list) else text


def defaults_of_shares() -> Callable[[str], Any]:
    """Return a function from a parameter's name to what it is by default in a share.

    That is None for what Samba does not know, or not in a share (lib/param/loadparm.c,
    lpcfg_map_parameter()), and for parameters with a colon.
    """
    from samba.param import LoadParm

    file = os.memfd_create("smb.conf")
    try:
        os.write(file, b"[share]\npath = /\n")
        with samba_speaks():
            parameters = LoadParm(filename_for_non_global_lp=f"/proc/self/fd/{file}")
    finally:
        os.close(file)

    @cache
    def default(name: str) -> Any:
        with samba_speaks():  # it complains of what it does not know
            return parameters.get(name, "share")

    return default


def registry_sections(ours: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the sections of Samba's registry as they are, without what is exposed.

    Args:
        ours: what the paths of exposed backups, and of nothing else, begin with.

    Raises:
        RvssError: SAMBA if the registry cannot be read.
    """
    from samba.samba3 import smbconf

    with samba_speaks():
        try:
            registry = smbconf.init_reg(None)
            # Exposed shadow copies are Samba's and ours, not the administrator's; there can
            # be thousands.
            names = [name for name in registry.share_names() if not EXPOSED.fullmatch(name)]
            sections = {name: tuple(registry.get_share(name)[1]) for name in names}
            found = {
                name: own
                for name, own in sections.items()
                if not Parameters(dict(own)).get("path", "").startswith(ours)
            }
        except smbconf_error() as exc:
            raise RvssError(
                Problem.SAMBA, f"cannot read Samba's registry: {exc}", "try 'net conf list'"
            ) from exc
    return found


def smbconf_error() -> type[Exception]:
    """Return the exception of Samba's smbconf binding, which another module of it defines."""
    from samba import smbconf as general

    error: type[Exception] = general.SMBConfError
    return error

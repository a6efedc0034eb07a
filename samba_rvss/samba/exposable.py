"""Whether Samba can expose a share's shadow copies, and lead clients to them: before it hurts.

ExposeShadowCopySet comes when the copy has been taken. It puts all that stands in the share's
section into the registry, under the name of the copy, and gives up at what the registry does not
take; its set is then in the way of all others. What it does not find there, the copy's share lacks.

Place: on `written`. Contract: pure functions of what was read; each obstacle is one `Advice`.
Source: source3/rpc_server/fss/srv_fss_agent.c, fss_sc_expose(); source3/lib/smbconf/smbconf_reg.c.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from samba_rvss.model import Advice
from samba_rvss.samba import written
from samba_rvss.samba.parser import lower_case
from samba_rvss.samba.values import plain
from samba_rvss.samba.written import Parameter

Sections = Mapping[str, tuple[Parameter, ...]]

_LONGEST = 255
"""Of the names in a registry key, in bytes: one that is longer makes the registry unreadable.

Source: source3/registry/reg_backend_db.c, regdb_fetch_keys_internal(); lib/tdb's tdb_unpack(), "f".
"""

_ADDED = len("@{") + 36 + len("}")

# lp_parameter_value_is_valid(), sscanf(3) "%d": smb.conf is read with less rigour. What is wrong
# with the values of other types keeps the file from being loaded.
_NUMBER = re.compile(r"\s*[+-]?[0-9]")

# Those that are ours, or that a shadow copy's share gets anew: it needs none of the base share's.
_NOT_NEEDED = re.compile(r"(?:rvss|shell_snap|shadow):|(?:path|comment)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where Samba finds shares.

    Attributes:
        file: the sections of smb.conf itself, by their names in lower case; so are the others.
        included: those of the files that it includes, by their paths.
        registry: the shares in the registry.
        default: see `samba_rvss.samba.parser.defaults_of_shares`.
        utf8: whether the texts in smb.conf are UTF-8 for Samba, as they are if nothing is set.
        registry_shares: whether clients reach the shares in the registry.
    """

    file: Sections
    included: Mapping[str, Sections]
    registry: Sections
    default: Callable[[str], Any]
    utf8: bool = True
    registry_shares: bool = True


def obstacles(share: str, sources: Sources) -> Iterator[Advice]:
    """Yield why a share's copies cannot be exposed as they are to be, and what to do."""
    if not sources.registry_shares:
        yield Advice(
            check="registry",
            what="'registry shares' is off in [global], so that nobody could connect to its shadow"
            " copies",
            write="set 'registry shares = yes' and 'include = registry'",
        )
    if excess := _excess(share):
        yield Advice(
            check="names",
            what="its name is too long",
            why=f"the names of its shadow copies would have {_LONGEST + excess} bytes, and more"
            f" than {_LONGEST} make Samba's whole registry unreadable",
            write=f"give it one that is shorter by {excess}",
        )
    name = lower_case(share)
    registered = sources.registry.get(name, ())
    own = sources.file.get(name)
    if own is None:
        yield from _refused(registered, sources)
        return
    yield from _refused(own, sources)
    for where, sections in (*sources.included.items(), ("the registry", {name: registered})):
        yield from _lacking(own, sections.get(name, ()), where)


def _excess(share: str) -> int:
    """Return how many bytes too long the names of a share's copies are (map_share_name())."""
    size = len(os.fsencode(share)) + _ADDED + share.endswith("$")
    return max(0, size - _LONGEST)


def _refused(own: tuple[Parameter, ...], sources: Sources) -> Iterator[Advice]:
    """Yield what the registry does not take (smbconf_reg_set_value()), or what leads elsewhere."""
    for name, value in dict.fromkeys(own):
        if plain(name) == "include":
            continue
        known = ":" not in name and _is_utf8(name)  # Samba's library takes no other bytes
        default = sources.default(name) if known else None
        if default is None and ":" not in name:
            yield Advice(
                check="expose",
                what=f"its section has '{name}', which Samba does not know, or in [global] only,"
                " and does not take when it exposes a copy",
                write="correct it, or take it out",
            )
        elif isinstance(default, int) and not isinstance(default, bool):
            if not _NUMBER.match(value):
                yield Advice(
                    check="expose",
                    what=f"its section has '{name} = {value}', which is no number, and which Samba"
                    " does not take when it exposes a copy",
                    write="correct it, or take it out",
                )
        elif sources.utf8 and not _is_utf8(value):
            yield Advice(
                check="expose",
                what=f"the value of '{name}' in its section is not UTF-8, and Samba does not take"
                " it when it exposes a copy",
                write="correct it",
            )
    for file in written.includes(own):
        for where, (name, _) in written.leading(file):
            if plain(name) == "path":
                # What is included counts last in a copy's share too (smbconf_reg_get_values()).
                yield Advice(
                    check="expose",
                    what=f"its section includes {where}, which sets 'path', so that the shares of"
                    " its copies would lead to its own directory",
                    write="write 'path' into the section itself",
                )


def _lacking(
    own: tuple[Parameter, ...], more: tuple[Parameter, ...], where: str
) -> Iterator[Advice]:
    """Yield what holds for a share and would not for its copies, because it stands elsewhere."""
    known = {(plain(name), value) for name, value in own}
    names = dict.fromkeys(
        name
        for name, value in more
        if (plain(name), value) not in known and not _NOT_NEEDED.match(plain(name))
    )
    if names:
        what = " and ".join(f"'{name}'" for name in names)
        yield Advice(
            check="expose",
            what=f"a part of it stands in {where}, where Samba does not look when it exposes a"
            f" copy, which would lack {what}",
            write="move it into the share's section in smb.conf itself",
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Who may take shadow copies: as Samba's own databases on this machine tell it.

Contract: it looks, and changes nothing; net(8) is asked, for a bounded time, because Samba may ask
a domain controller who a member is.
Source: source3/rpc_server/fss/srv_fss_agent.c, fss_permitted().
"""

from dataclasses import dataclass

from samba_rvss.run import ToolError, run

OPERATORS, ADMINISTRATORS = "BUILTIN\\Backup Operators", "BUILTIN\\Administrators"
PRIVILEGE = "SeBackupPrivilege"

_SECONDS = 10.0
_NO_GROUP = "NT_STATUS_NO_SUCH_ALIAS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Privileged:
    """Who may take shadow copies; names as Samba has them, such as ``DOM\\HV01$``.

    Attributes:
        operators: the members of BUILTIN\\Backup Operators; None if there is no such group.
        administrators: those of BUILTIN\\Administrators, likewise.
        granted: those who have SeBackupPrivilege, but for BUILTIN\\Administrators.
    """

    operators: tuple[str, ...] | None
    administrators: tuple[str, ...] | None
    granted: tuple[str, ...]

    @property
    def named(self) -> tuple[str, ...]:
        """All of them, each once."""
        found = (*(self.operators or ()), *(self.administrators or ()), *self.granted)
        return tuple(dict.fromkeys(found))


def look(configfile: str) -> Privileged:
    """Ask Samba who may take shadow copies.

    Raises:
        RvssError: MISSING or TOOL if it does not tell.
    """
    said = _net(configfile, "rights", "list", PRIVILEGE)
    return Privileged(
        operators=_members(configfile, OPERATORS),
        administrators=_members(configfile, ADMINISTRATORS),
        granted=tuple(name for name in _lines(said) if name != ADMINISTRATORS),
    )


def _members(configfile: str, group: str) -> tuple[str, ...] | None:
    try:
        said = _net(configfile, "listmem", group)
    except ToolError as exc:
        if _NO_GROUP in exc.said:
            return None
        raise
    # source3/utils/net_sam.c, net_sam_listmem(): a heading, and one member a line
    return tuple(_lines(said)[1:])


def _net(configfile: str, *words: str) -> str:
    return run(["net", f"--configfile={configfile}", "sam", *words], timeout=_SECONDS)


def _lines(said: str) -> list[str]:
    return [line.strip() for line in said.splitlines() if line.strip()]

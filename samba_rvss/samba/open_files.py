"""Which files of Samba's shares are open, and whose they are: as Samba's own databases tell it.

Contract: it looks, and changes nothing; smbstatus(1) is asked, for a bounded time.
Source: source3/utils/status.c, print_share_mode() and traverse_sessionid(); status_json.c (since
Samba 4.17).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import run

_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A file, or a directory, that a client has open.

    Attributes:
        path: of the file, without its stream.
        device: the number of its device, and
        inode: of its inode, as Samba knows them (vfs_fileid may have changed the first).
        share: of the connection, if it has only one; else empty.
        user: who has it open.
        machine: from where: an address, or what the client calls itself.
    """

    path: str
    device: int
    inode: int
    share: str
    user: str
    machine: str


def look(configfile: str) -> list[OpenFile]:
    """Return the files that clients have open; a file that several have open is several.

    Raises:
        RvssError: SAMBA if smbstatus says what cannot be understood; else as `run`.
    """
    words = ["smbstatus", f"--configfile={configfile}", "--json"]
    try:
        said = json.loads(run(words, timeout=_SECONDS))
        sessions = {_pid(each): each for each in said.get("sessions", {}).values()}
        shares: dict[str, set[str]] = {}
        for each in said.get("tcons", {}).values():
            shares.setdefault(_pid(each), set()).add(str(each["service"]))
        found = []
        for file in said.get("open_files", {}).values():
            name = str(file["filename"]).partition(":")[0]
            path = os.path.normpath(os.path.join(str(file["service_path"]), name))
            number = file["fileid"]
            for each in file["opens"].values():
                pid = _pid(each)
                session = sessions.get(pid, {})
                connected = shares.get(pid, set())
                found.append(
                    OpenFile(
                        path=path,
                        device=int(number["devid"]),
                        inode=int(number["inode"]),
                        share=next(iter(connected)) if len(connected) == 1 else "",
                        user=str(session.get("username") or each.get("uid", "")),
                        machine=str(session.get("remote_machine", "")),
                    )
                )
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise RvssError(Problem.SAMBA, f"smbstatus says what is not understood: {exc}") from exc
    return found


def _pid(of: Mapping[str, Any]) -> str:
    return str(of["server_id"]["pid"])

"""``samba-rvss shares``: each share of smb.conf, whether it is ours, and if not, why."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from samba_rvss import output
from samba_rvss.cli.common import Verbs, configuration, open_ledger
from samba_rvss.copies import advice, room
from samba_rvss.copies.locate import locate
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Identity, ShadowCopy
from samba_rvss.mounts import Mounts
from samba_rvss.providers.all import providers
from samba_rvss.providers.patience import COMMON
from samba_rvss.samba import conf, readable, serving, twins

_STYLES = {"supported": "green", "not supported": "bold red", "not ours": "dim"}


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "shares",
        help="show which shares can have shadow copies",
        description="Show each share of smb.conf: whether it is ours and supported, where it"
        " sits, and if it is not, why.",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("share", nargs="*", metavar="SHARE", help="these shares only")
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """Show the shares."""
    config = configuration(arguments)
    wanted = {share.lower() for share in arguments.share}
    with output.progress(output.LOOKING):
        rows = [row for row in examine(config) if not wanted or str(row["share"]).lower() in wanted]
    holding = Mounts(config.run_directory).holding()
    found = (*advice.of(config), *serving.obstacles(config), readable.some(config.file), *holding)
    warnings = tuple(filter(None, found))
    if arguments.json:
        output.print_json({"shares": rows, "warnings": list(warnings)})
        return 0
    output.print_table(
        ["SHARE", "STATE", "PATH", "FILE SYSTEM", "VOLUME", "DIRECTORY", "WHY NOT"],
        [
            [
                str(row["share"]),
                "supported" if row["supported"] else "not supported" if row["ours"] else "not ours",
                str(row["path"]),
                str(row["file_system"] or "-"),
                str(row["volume"] or "-"),
                str(row["directory"] or "-"),
                str(row["reason"]),
            ]
            for row in rows
        ],
        f"There are no shares in {config.file}.",
        _STYLES,
        brief=True,
    )
    short = [f"[{row['share']}] {row['warning']}" for row in rows if row["warning"]]
    for warning in (*warnings, *short):
        output.print_line(f"warning: {warning}")
    return 0


def examine(config: conf.Config) -> Iterator[dict[str, object]]:
    """Yield each section of smb.conf, whether it is ours and supported, and if not, why.

    One that only inherits the hook from [global], and has no shadow copies, may not be meant.
    """
    # Probing looks at no image, but knows our homes.
    known = providers(Identity(id=""), config.homes)
    counts, whole = _counts(config), twins.whole(config.shares)
    for section in config.sections:
        row: dict[str, object] = {
            "share": section.name,
            "path": section.path,
            "registry": section.registry,
            "ours": section.share is not None,
            "inherits": section.inherits,
            "supported": False,
            "file_system": None,
            "volume": None,
            "directory": None,
            "nested": None,
            "reason": section.reason,
            "warning": "",
        }
        if section.share is not None:
            count = counts.get(section.share.name.lower(), 0)
            row["inherits"] = section.inherits and not count
            try:
                share = whole[section.share.name]
                look = partial(locate, share, known, config.run_directory, thorough=True)
                target = COMMON.look(share.path, look)
                room.refuse_many(section.share, count)
                room.refuse_full(section.share, target.space)
            except RvssError as exc:
                backups = _backups(config) if exc.problem is Problem.NO_SPACE else ()
                said = room.explained(exc, section.share, backups).line()
                row["reason"] = said.removeprefix(f"[{section.share.name}]: ")  # it stands beside
            else:
                row["supported"] = True
                row["warning"] = room.warning(section.share, count, target.space)
                row["file_system"] = target.volume.provider
                row["volume"] = target.volume.name
                row["directory"] = f"/{target.volume.directory}"
                row["nested"] = section.share.nested.value
        yield row


def _backups(config: conf.Config) -> Sequence[ShadowCopy]:
    try:
        with open_ledger(config) as ledger:
            return ledger.backups()
    except RvssError:  # as below
        return ()


def _counts(config: conf.Config) -> Mapping[str, int]:
    """Return how many copies each share has, by its name in lower case."""
    try:
        with open_ledger(config) as ledger:
            return ledger.counts()
    except RvssError:  # there is none yet; if it is damaged, other commands say so
        return {}

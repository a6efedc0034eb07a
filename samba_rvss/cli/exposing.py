"""``samba-rvss backup expose`` and ``conceal``: a backup as a share again; the daemon does it.

With ``--writable`` that is an image beside the backup, and never the backup. What was written to
it is deleted by ``conceal --delete`` alone, after showing it.
"""

import argparse
from collections.abc import Container, Iterable, Sequence
from typing import Any

from samba_rvss import output, wire
from samba_rvss.cli import reading
from samba_rvss.cli.changing import day_end
from samba_rvss.cli.common import (
    BACKUP_ID,
    Verbs,
    agreed,
    ask,
    configuration,
    ledger_or_empty,
    open_ledger,
)
from samba_rvss.clock import now
from samba_rvss.copies import concern, identity
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Exposed, Image
from samba_rvss.samba.conf import Config


def register(verbs: Verbs) -> None:
    """Add the verbs to those of ``backup``."""
    verb = verbs.add_parser(
        "expose",
        help="make a backup a share again",
        description="Make a backup a share again, read-only, for all who may connect to its own"
        " share. It is held for as long. The names of the shares are printed.",
    )
    verb.add_argument("copy", metavar="ID", help=BACKUP_ID)
    verb.add_argument(
        "--writable",
        action="store_true",
        help="expose a writable copy beside the backup, from which a machine can be started",
    )
    verb.add_argument(
        "--for", dest="account", metavar="ACCOUNT", default="", help="only this one may connect"
    )
    verb.add_argument("--until", metavar="DATE", default="", help="until when, that day included")
    verb.set_defaults(function=run_expose)
    verb = verbs.add_parser(
        "conceal",
        help="take the share of a backup away",
        description="Take away the shares of a backup, and of the writable copy beside it. What was"
        " written to that stays, and is there again when it is exposed once more.",
    )
    verb.add_argument("copy", metavar="ID", help=f"{BACKUP_ID}; or that of a writable copy")
    verb.add_argument(
        "--delete",
        action="store_true",
        help="show the writable copy, and delete it with what was written to it; the backup stays",
    )
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.set_defaults(function=run_conceal, looks=True)


def run_expose(arguments: argparse.Namespace) -> int:
    """Expose a backup."""
    config, until = configuration(arguments), day_end(arguments.until)
    with open_ledger(config) as ledger:
        part = reading.parts_of(ledger, arguments.copy)[0]
    request = wire.AdminRequest(
        verb="expose",
        copy=part.id,
        until=until,
        account=arguments.account,
        writable=arguments.writable,
    )
    output.print_line(ask(config, request))
    return 0


def run_conceal(arguments: argparse.Namespace) -> int:
    """Conceal a backup, or a writable copy; delete that if it is asked for and agreed to."""
    from samba_rvss.cli.look import instance_of

    config, word = configuration(arguments), arguments.copy
    with ledger_or_empty(config) as ledger:
        there = images(config, concern.file_systems(instance_of(config, ledger)))
        found = [image for image in there if image.mark.branch]
        named = [image for image in found if image.id == word or image.id.endswith(f"-{word}")]
        if len(named) == 1:
            target = named[0].id
        else:
            parts = reading.parts_of(ledger, word)
            ids, target = {part.id for part in parts}, parts[0].id
            named = [image for image in found if image.mark.branch and image.mark.branch.of in ids]
    if not arguments.delete:
        output.print_line(ask(config, wire.AdminRequest(verb="conceal", copy=target)))
        return 0
    if not named:
        raise RvssError(
            Problem.NOT_FOUND, f"there is no writable copy of {word}", "nothing is deleted"
        )
    for image in named:
        output.print_line(f"{image.id} {told(image)}")
    what = "it" if len(named) == 1 else "them"
    question = f"Delete {what}, with all that was written to {what}?"
    if not arguments.yes and not agreed(question, "use --yes"):
        return 0
    for image in named:  # what has been shown, and nothing else
        request = wire.AdminRequest(verb="conceal", copy=image.id, delete=True)
        output.print_line(ask(config, request))
    return 0


def images(config: Config, file_systems: Container[str]) -> Sequence[Image]:
    """Return the images on file systems; what cannot be listed is said."""
    from samba_rvss.providers.all import providers
    from samba_rvss.providers.inventory import of_all

    inventory = of_all(providers(identity.read(config), config.homes), file_systems)
    for file_system, reason in inventory.unlisted.items():
        output.print_error(f"{file_system} cannot be listed: {reason}")
    return inventory.images


def told(image: Image) -> str:
    """Return in words what a writable copy is."""
    mark = image.mark
    of = mark.branch.of if mark.branch else ""
    made = f"made {output.local_time(mark.created)}, {output.span(now() - mark.created)} ago"
    how = shown(mark.exposed) if mark.exposed else "concealed"
    return f"is a writable copy of the backup {of} of [{mark.share}], {made}; {how}"


def of(images: Iterable[Image]) -> list[Image]:
    """Return the backups that are shares, and the writable copies, each after its backup."""
    found = [image for image in images if image.mark.exposed or image.mark.branch]
    return sorted(found, key=_place)


def _place(image: Image) -> tuple[str, bool]:
    branch = image.mark.branch
    return (image.id, False) if branch is None else (branch.of, True)


def line(image: Image) -> str:
    """Return in a few words what is exposed of a backup, or beside it."""
    exposed = image.mark.exposed
    if image.mark.branch is None:
        return f"read-only, {shown(exposed)}" if exposed else ""
    return f"writable copy {image.id}, {shown(exposed) if exposed else 'concealed'}"


def shown(exposed: Exposed) -> str:
    """Return in words what is exposed, for whom and until when."""
    words = f"exposed as [{exposed.share}]"
    words += f" for {exposed.account}" if exposed.account else ""
    words += f" until {output.local_time(exposed.until)}" if exposed.until else ""
    return f"{words}, being concealed" if exposed.ending else words


def as_data(image: Image) -> dict[str, Any]:
    """Return an image that is exposed, or a writable copy, as JSON has it."""
    mark, exposed = image.mark, image.mark.exposed
    return {
        "id": image.id,
        "backup": mark.branch.of if mark.branch else image.id,
        "base_share": mark.share,
        "writable": mark.branch is not None,
        "made": mark.created.isoformat() if mark.branch else None,
        "share": exposed.share if exposed else None,
        "account": (exposed.account or None) if exposed else None,
        "until": exposed.until.isoformat() if exposed and exposed.until else None,
    }

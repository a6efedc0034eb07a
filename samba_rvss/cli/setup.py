"""``samba-rvss setup``: what a share needs in smb.conf, printed or written, or taken away again.

Contract: nothing is written that Samba's own parser does not take, or that changes another share.
The file that was there is kept beside it.
"""

import argparse
import difflib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass

from samba_rvss import output
from samba_rvss.cli.common import Verbs, configuration, open_ledger
from samba_rvss.cli.shares import examine
from samba_rvss.clock import now
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Keep
from samba_rvss.mounts import places
from samba_rvss.samba import (
    conf,
    control,
    outlook,
    readable,
    registry,
    rewriting,
    setting,
    twins,
    written,
)
from samba_rvss.samba.edited import Change, edited
from samba_rvss.samba.parser import lower_case, open_context, registry_sections, sections_of
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.sections import Section
from samba_rvss.samba.values import Parameters, plain

_GLOBAL = "global"
_SHOWN = 3  # of what a text would come to


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "setup",
        help="show or write what a share needs in smb.conf",
        description="Print what has to be added to smb.conf so that a share has shadow copies;"
        " with --apply, write it into smb.conf, or into Samba's registry where the share is there."
        " What is right already stays as it is, [global]'s 'vfs objects' are repeated, and the"
        " file that was there is kept beside the new one.",
    )
    verb.add_argument("share", metavar="SHARE", help="a share that smb.conf or the registry has")
    verb.add_argument("--apply", action="store_true", help="write it, and tell Samba")
    verb.add_argument(
        "--remove",
        action="store_true",
        help="take it away instead, with all rvss: options of the share; [global] stays",
    )
    verb.add_argument(
        "--keep",
        choices=[keep.value for keep in Keep],
        help="set rvss:keep, which says which shadow copies stay as backups",
    )
    verb.add_argument(
        "--previous-versions",
        action="store_true",
        help="let Windows' Previous Versions show the shadow copies",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run, looks=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to become of smb.conf.

    Attributes:
        file: without symbolic links.
        before, after: its text.
        changes: all, of the file and of the registry.
        registered: those of the registry.
    """

    file: str
    before: str
    after: str
    changes: Sequence[Change]
    registered: Sequence[Change]

    @property
    def diff(self) -> str:
        """The change of the file, as patch(1) takes it."""
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            self.file,
            self.file,
        )
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def run(arguments: argparse.Namespace) -> int:
    """Print or write what a share needs."""
    if arguments.remove and (arguments.keep or arguments.previous_versions):
        raise RvssError(Problem.USAGE, "--remove takes everything away", "give no options with it")
    config = configuration(arguments)
    section = _section(config, arguments.share)
    plan = _plan(config, section, arguments)
    after = _judged(plan)
    obstacle = "" if arguments.remove else _obstacle(after, section)
    backup = untold = ""
    if arguments.apply and plan.changes:
        if obstacle:
            raise RvssError(
                Problem.REFUSED,
                f"[{section.name}] would still have no shadow copies, and nothing is written:"
                f" {obstacle}",
            )
        backup, untold = _apply(plan, config)
    further = [*filter(None, [untold]), *_further(plan, config, section, arguments)]
    if arguments.json:
        output.print_json(
            {
                "share": section.name,
                "file": plan.file,
                "changes": [
                    {
                        "section": change.section,
                        "registry": change in plan.registered,
                        "parameter": change.key,
                        "value": change.value,
                        "why": change.why,
                    }
                    for change in plan.changes
                ],
                "obstacle": obstacle,
                "applied": bool(arguments.apply and plan.changes),
                "backup": backup or None,
                "further": further,
            }
        )
        return 0
    _show(plan, section, arguments, backup)
    if obstacle:
        output.print_line(f"warning: and still it could have no shadow copies: {obstacle}")
    for line in further:
        output.print_line(line)
    return 0


def _section(config: conf.Config, name: str) -> Section:
    """Return the section that a name means.

    Raises:
        RvssError: NOT_FOUND; REFUSED if it is none that can have shadow copies by being set up.
    """
    found = {lower_case(section.name): section for section in config.sections}
    section = found.get(lower_case(name))
    if section is None:
        raise RvssError(
            Problem.NOT_FOUND,
            f"there is no share [{name}] in {config.file} or in Samba's registry",
            "make it first, with its path",
        )
    if lower_case(name) == "homes" or not section.path:
        reason = "it stands for a share of each user" if section.path else "it has no path"
        raise RvssError(Problem.REFUSED, f"[{section.name}] can have no shadow copies: {reason}")
    return section


def _plan(config: conf.Config, section: Section, arguments: argparse.Namespace) -> _Plan:
    file = rewriting.real(config.file)
    before = rewriting.text(file)
    parts = written.sections(written.parse(before))
    context = open_context(config.file)
    sections = sections_of(context)
    globals_ = sections.get(_GLOBAL, Parameters())
    name = section.name
    if section.registry:
        known = registry_sections(f"{config.run_directory}/")
        own = Parameters(dict(known.get(name, ())))
        effective = conf.with_copied(own, sections)
    else:
        if lower_case(name) not in parts:
            raise RvssError(
                Problem.REFUSED,
                f"[{name}] stands in an included file, where Samba cannot find it when it exposes a"
                " copy",
                f"move it into {file} itself",
            )
        own = Parameters(dict(parts[lower_case(name)]))
        effective = sections.get(name, own)  # what `copy =` adds included
    general: list[Change] = []
    if arguments.remove:
        wanted = setting.without(name, own, globals_, config.run_directory)
    else:
        includes = [
            text
            for part in written.parse(before)
            if written.is_global(part.section)
            for key, text in part.parameters
            if plain(key) == "include"
        ]
        general = list(setting.for_all(globals_, includes))
        previous = ""
        if arguments.previous_versions:
            if elsewhere := setting.shown_elsewhere(effective, config.run_directory):
                raise RvssError(
                    Problem.REFUSED,
                    f"[{name}] shows other Previous Versions: it has '{elsewhere}'",
                    "take that out first, if samba-rvss is to show its own",
                )
            named = section.share and twins.shown_by(twins.of(config.shares, section.path))
            previous = places.previous(config.run_directory, named or name)
        wishes = setting.Wishes(keep=arguments.keep or "", previous=previous, path=section.path)
        wanted = list(setting.for_share(name, effective, globals_, config.run_directory, wishes))
    in_file = general if section.registry else [*general, *wanted]
    return _Plan(
        file=file,
        before=before,
        after=edited(before, in_file),
        changes=[*general, *wanted],
        registered=wanted if section.registry else (),
    )


def _judged(plan: _Plan) -> conf.Config:
    """Return what the new text of smb.conf comes to, as Samba reads it.

    Raises:
        RvssError: REFUSED if Samba does not take it, or it means more or less than is planned.
    """
    with ExitStack() as stack:
        fd = outlook.of_text(plan.after)
        stack.callback(os.close, fd)
        samba = stack.enter_context(closing(SambaProcess()))
        before = samba.call(outlook.look, plan.file)
        try:
            # Another process, in which nothing of the first one is left.
            other = stack.enter_context(closing(SambaProcess()))
            after = other.call(outlook.look, f"/proc/{os.getpid()}/fd/{fd}")
        except RvssError as exc:
            if exc.problem is not Problem.CONFIG:
                raise
            raise RvssError(
                Problem.REFUSED, f"Samba would not take {plan.file} then: {exc.message}"
            ) from exc
    in_file = [change for change in plan.changes if change not in plan.registered]
    said = list(outlook.unwanted(before, after, in_file))
    if said:
        shown = "; ".join(said[:_SHOWN])
        more = f", and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
        raise RvssError(
            Problem.REFUSED,
            f"{plan.file} is not what is meant with these lines: {shown}{more}",
            "edit it by hand",
        )
    return after.config


def _obstacle(after: conf.Config, section: Section) -> str:
    """Return why a share will have no shadow copies all the same; empty if it will."""
    if section.registry:  # its own parameters are not there yet
        return ""
    name = lower_case(section.name)
    found = next((each for each in after.sections if lower_case(each.name) == name), None)
    if found is None or found.share is None:
        return found.reason if found else "Samba does not see it"
    return found.share.obstacle


def _apply(plan: _Plan, config: conf.Config) -> tuple[str, str]:
    """Write a plan: the file first, whose lines for all do no harm alone.

    Returns:
        The file that keeps what was there, and why Samba could not be told; either may be empty.

    Raises:
        RvssError: REFUSED if smb.conf has changed meanwhile; BUSY, SAMBA or SYSTEM.
    """
    backup = ""
    if plan.after != plan.before:
        backup = rewriting.replace(plan.file, plan.before, plan.after, f"{now():%Y%m%dT%H%M%SZ}")
    if plan.registered:
        try:
            _register(plan.registered)
        except RvssError as exc:
            if backup:
                exc.add_note(f"{plan.file} is written, and what was there is in {backup}")
            raise
    try:
        control.reload_config(config.file)
    except RvssError as exc:
        return backup, f"Samba was not told: {exc.line()}"
    return backup, ""


def _register(changes: Sequence[Change]) -> None:
    """Change a share in Samba's registry, all of it or nothing.

    Raises:
        RvssError: SAMBA.
    """
    name = changes[0].section
    with registry.changing(f"to change [{name}]") as database, registry.transaction(database):
        present = [key for key, _ in database.get_share(name)[1]]
        for change in changes:
            same = [key for key in present if plain(key) == plain(change.key)]
            if change.value is not None:
                database.set_parameter(name, (same or [change.key])[-1], change.value)
                continue
            for key in same:
                database.delete_parameter(name, key)


def _show(plan: _Plan, section: Section, arguments: argparse.Namespace, backup: str) -> None:
    """Tell people what is changed, or is to be."""
    if not plan.changes:
        what = "has nothing of samba-rvss" if arguments.remove else "has all that it needs"
        output.print_line(f"[{section.name}] {what}.")
        return
    if arguments.apply:
        for line in plan.diff.splitlines():
            output.print_line(line)
        for change in plan.registered:
            output.print_line(f"registry: [{change.section}] {change.line}")
        if backup:
            output.print_line(f"{plan.file} is written; what was there is in {backup}.")
        return
    for name, changes in setting.as_lines(plan.changes).items():
        output.print_line(f"[{name}]")
        for change in changes:
            what = "take out" if change.value is None else ""
            output.print_line(f"    # {what and f'{what} {change.key}: '}{change.why}")
            if change.value is not None:
                output.print_line(f"    {change.line}")
        output.print_line()
    where = "Samba's registry ('net conf setparm')" if section.registry else plan.file
    output.print_line(f"--apply writes it into {where}.")


def _further(
    plan: _Plan, config: conf.Config, section: Section, arguments: argparse.Namespace
) -> Iterator[str]:
    """Yield what else is to be done, a sentence each."""
    applied = arguments.apply
    if plan.changes and not applied:
        yield "Then: smbcontrol all reload-config"
    if any(plain(change.key).startswith("rpcd_fsrvp:") for change in plan.changes):
        yield "A worker of Samba's that runs keeps its old settings: restart smbd once."
    if any(plain(change.key) == "vfsobjects" for change in plan.changes):
        yield "Clients that are connected get the share's new modules when they connect again."
    if arguments.remove:
        with suppress(RvssError), open_ledger(config) as ledger:
            count = ledger.counts().get(section.name.lower(), 0)
            if count:
                yield f"{count} shadow copies of it are served until they are deleted."
        yield "[global] stays: Samba's exposed shares, and other shares of ours, need it."
        return
    if applied:
        current = configuration(arguments)
        for row in examine(current):
            if row["share"] == section.name and not row["supported"]:
                yield f"It is not supported yet: {row['reason']}"
    if why := readable.some(config.file):
        yield f"{why}."
    yield (
        "Who backs up must be a member of Backup Operators, or have the right:"
        " net sam rights grant USER SeBackupPrivilege"
    )
    yield f"See that all is well: samba-rvss doctor {shlex.quote(section.name)} --probe --user USER"

"""``samba-rvss adopt``: take over the sealed images of another instance; the daemon does it."""

import argparse

from samba_rvss import output, wire
from samba_rvss.cli.common import Verbs, ask, configuration
from samba_rvss.cli.reconcile import as_data, as_line, exit_status, summary
from samba_rvss.findings import Finding

_NOT_EXCLUDED = (
    "that another host has this file system, or a container that cannot be seen from here, and"
    " serves that instance"
)


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "adopt",
        help="take over the sealed shadow copies of another instance",
        description="Take over the sealed shadow copies of an instance that is served no more:"
        " their file system was moved here, or its state directory was lost. 'list --all' names"
        " them and their instance.",
        epilog="Exit status: 0 all were taken over, 1 something failed, 3 some are left, and why.",
    )
    verb.add_argument(
        "--from",
        dest="source",
        metavar="INSTANCE",
        required=True,
        help="what 'list --all' says of whose they are: an id, name:NAME, or a run directory",
    )
    verb.add_argument(
        "--on", metavar="PATH", default="", help="those on the file system of this directory only"
    )
    verb.add_argument(
        "-n", "--dry-run", action="store_true", help="tell what would be done (needs no daemon)"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """Adopt, or tell what would be adopted."""
    findings: list[Finding] = []

    def hear(part: wire.Part) -> None:
        if isinstance(part, Finding):
            findings.append(part)
            if not arguments.json:
                output.print_line(as_line(part))

    config = configuration(arguments)
    if arguments.dry_run:
        from samba_rvss.cli.common import ledger_or_empty
        from samba_rvss.cli.look import instance_of
        from samba_rvss.copies import adopt
        from samba_rvss.daemon import living
        from samba_rvss.reconcile import report

        with ledger_or_empty(config) as ledger:
            instance = instance_of(config, ledger)
            living.require_silence(instance.identity, arguments.source)
            with output.progress(output.LOOKING):
                found = list(adopt.candidates(instance, arguments.source, arguments.on))
            for candidate in found:
                hear(report.of_candidate(candidate))
    else:
        request = wire.AdminRequest(verb="adopt", source=arguments.source, on=arguments.on)
        ask(config, request, hear)
    if arguments.json:
        output.print_json({**as_data(findings), "not_excluded": _NOT_EXCLUDED})
    else:
        output.print_line(
            summary(findings) if findings else f"there is no image of {arguments.source}"
        )
        output.print_line(f"not excluded: {_NOT_EXCLUDED}")
    return exit_status(findings)

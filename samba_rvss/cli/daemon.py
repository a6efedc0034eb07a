"""``samba-rvss daemon``: serve one instance in the foreground."""

import argparse
import asyncio
import logging
import os
import sys
import threading
from typing import Any

from samba_rvss.cli.common import Verbs


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "daemon",
        help="serve the hook (in the foreground; systemd or a container starts it)",
        description="Serve one instance until SIGTERM. SIGHUP reads smb.conf again at once;"
        " it is read again by itself when it has changed.",
    )
    verb.add_argument("-d", "--debug", action="store_true", help="log more")
    verb.set_defaults(function=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon."""
    from samba_rvss.daemon.service import Daemon

    log_to_journal_or_stderr(debug=arguments.debug)
    asyncio.run(Daemon(arguments.configfile).run())
    if any(
        thread is not threading.main_thread() and thread.is_alive()
        for thread in threading.enumerate()
    ):
        # One may hang in a system call for ever, and the interpreter would wait for it.
        logging.shutdown()
        os._exit(0)
    return 0


def log_to_journal_or_stderr(*, debug: bool) -> None:
    """Log to the journal if systemd started us, else to standard error, with the time."""
    handler: logging.Handler
    if os.environ.get("JOURNAL_STREAM"):
        from systemd.journal import JournalHandler

        handler = JournalHandler(SYSLOG_IDENTIFIER="samba-rvss")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: Any) -> str:
        record.levelname = record.levelname.lower()
        return super().formatMessage(record)

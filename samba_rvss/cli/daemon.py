"""``samba-rvss daemon``: serve one instance in the foreground."""

import argparse
import asyncio
import logging
import os
import sys
import threading
import time

from samba_rvss import output
from samba_rvss.cli.common import Verbs
from samba_rvss.cli.repeats import Repeats
from samba_rvss.errors import RvssError

_logger = logging.getLogger(__name__)

_END_SECONDS = 1.0


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
    from samba_rvss.cli.judge import now_wrong
    from samba_rvss.daemon.service import Daemon

    repeats = log_to_journal_or_stderr(debug=arguments.debug)
    failure: Exception | None = None
    try:
        asyncio.run(Daemon(arguments.configfile, judge=now_wrong).run())
    except Exception as exc:  # noqa: BLE001 - it is raised again, or logged where that would hang
        failure = exc
    repeats.tell()
    if _is_held():
        # The interpreter would wait for it, for ever, and systemd would start no other daemon.
        if failure is not None:
            _logger.critical("ended by an error: %s", failure, exc_info=failure)
        logging.shutdown()
        os._exit(int(failure.problem) if isinstance(failure, RvssError) else bool(failure))
    if failure is not None:
        raise failure
    return 0


def _is_held() -> bool:
    """Return whether a thread hangs in a system call; one that is about to end is waited for."""
    end = time.monotonic() + _END_SECONDS
    others = [thread for thread in threading.enumerate() if thread != threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    return any(thread.is_alive() for thread in others)


def log_to_journal_or_stderr(*, debug: bool) -> Repeats:
    """Log to the journal if systemd started us, else to standard error, with the time.

    Returns:
        What holds lines back: it is to tell of them at the end.
    """
    from samba_rvss.daemon.sockets import REQUESTS

    handler: logging.Handler
    if os.environ.get("JOURNAL_STREAM"):
        from systemd.journal import JournalHandler

        handler = JournalHandler(SYSLOG_IDENTIFIER="samba-rvss")
        handler.setFormatter(output.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(output.Formatter("%(asctime)s %(levelname)s %(message)s"))
    repeats = Repeats(besides=(REQUESTS,))
    handler.addFilter(repeats)
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return repeats

"""The programs that a definition names, and what they find in their environment.

Contract: they get no shell, no word but what the definition has, and our own small environment with
values in it. A list has one entry a line: a name or a path with a line break in it is refused
before anything is begun.
"""

from collections.abc import Callable, Mapping, Sequence

from samba_rvss import run
from samba_rvss.cli.running.order import Order
from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba import notification
from samba_rvss.text import printable

_LONGEST = 2000


def environment(order: Order, set_id: str = "", paths: Sequence[str] = ()) -> dict[str, str]:
    """Return what all programs find in their environment.

    Args:
        order: the run.
        set_id: Samba's id of its set; empty if there is none.
        paths: of each share, in their order.

    Raises:
        RvssError: BAD_PATH.
    """
    of = order.definition
    for each in (*of.shares, *paths):
        if "\n" in each or "\0" in each:
            raise RvssError(Problem.BAD_PATH, f"{each!r} has a line break in it", "rename it")
    return {
        "RVSS_CONFIG": order.config.file,
        "RVSS_BACKUP": of.name,
        "RVSS_SERVER": "" if order.own else order.host,
        "RVSS_SET_ID": set_id,
        "RVSS_SHARES": "\n".join(of.shares),
        "RVSS_PATHS": "\n".join(paths),
        "RVSS_AUTHENTICATION_FILE": of.authentication_file,
    }


def sources(order: Order) -> tuple[str, ...]:
    """Return where the shares are, not their copies."""
    found = []
    for name in order.definition.shares:
        ours = order.config.share(name) if order.own else None
        found.append(ours.path if ours is not None else f"\\\\{order.host}\\{name}")
    return tuple(found)


def of_result(result: str, reason: str, *, pre_failed: bool) -> dict[str, str]:
    """Return what a program finds besides that is told how something ended."""
    return {
        "RVSS_RESULT": result,
        "RVSS_REASON": printable(reason)[:_LONGEST],
        "RVSS_PRE_FAILED": "1" if pre_failed else "0",
    }


def call(
    order: Order,
    option: str,
    words: Sequence[str],
    env: Mapping[str, str],
    stopped: Callable[[], bool] | None = None,
) -> None:
    """Run a program of the definition to its end.

    Args:
        order: the run.
        option: which option names it.
        words: the program and its arguments.
        env: its environment, besides our own.
        stopped: see `samba_rvss.run.call`.

    Raises:
        RvssError: REFUSED or MISSING if it is not run; TOOL if it fails.
        Stopped: ``stopped`` returned true.
    """
    notification.require_program(words, f"{option} of [{order.definition.name}]")
    run.call(words, timeout=order.definition.command_timeout, env=env, stopped=stopped)

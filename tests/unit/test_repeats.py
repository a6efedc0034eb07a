"""A failure that goes on is logged once, and then less and less often, and nothing else is so."""

import io
import logging

import pytest

from samba_rvss.cli.repeats import Repeats


class Log:
    """What passes, at times that the test says."""

    def __init__(self, *besides: str) -> None:
        self.time = 0.0
        self.lines: list[str] = []
        self._filter = Repeats(besides, lambda: self.time)

    def say(self, text: str, *args: object, level: int = logging.ERROR, name: str = "ours") -> None:
        """Log a line."""
        record = logging.LogRecord(name, level, __file__, 1, text, args, None)
        if self._filter.filter(record):
            self.lines.append(record.getMessage())


def test_what_fails_every_few_seconds_for_a_day() -> None:
    log = Log()
    while log.time < 86400:
        log.say("%s is not sealed: it has not answered for %d s", "a", log.time)
        log.time += 5.0
    assert len(log.lines) < 32
    assert log.lines[:3] == [
        "a is not sealed: it has not answered for 0 s",
        "a is not sealed: it has not answered for 60 s (12 times in 60 s)",
        "a is not sealed: it has not answered for 180 s (24 times in 120 s)",
    ]


def test_what_comes_back_is_new(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    for log.time in (0.0, 5.0, 610.0, 615.0):
        log.say("it fails")
    assert log.lines == ["it fails"] * 2
    assert caplog.messages == ["it fails (1 more, the last 605 s ago)"]


def test_what_comes_no_more_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """When it is forgotten and something is logged, or at the end; and once only."""
    handler = logging.StreamHandler(stream := io.StringIO())
    time = 0.0
    repeats = Repeats(clock=lambda: time)
    handler.addFilter(repeats)
    logger = logging.getLogger("ours")
    logger.addHandler(handler)
    try:
        for time in (0.0, 1.0, 2.0):
            logger.error("%d%% is full, for %d s", 100, time)
        time = 602.0
        logger.info("hello")
        for _ in range(2):
            logger.warning("it fails")
        repeats.tell()
        repeats.tell()
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue().splitlines() == [
        "100% is full, for 0 s",
        "100% is full, for 2 s (2 more, the last 600 s ago)",
        "it fails",
        "it fails (1 more, the last 0 s ago)",
    ]


def test_what_says_something_else_is_logged() -> None:
    log = Log("requests")
    for _ in range(2):
        log.say("a fails")
        log.say("b fails")
        log.say("100%", level=logging.INFO)
        log.say("a fails", level=logging.INFO)
        log.say("a fails", name="requests")
    log.say("a fails", level=logging.WARNING)
    assert log.lines == [
        "a fails",
        "b fails",
        *["100%", "a fails", "a fails"] * 2,
        "a fails",
    ]


_RECORD = ("ours", logging.ERROR, __file__, 1, "cannot reconcile", ())


def test_another_exception_is_another_failure() -> None:
    found = Repeats()
    for error, passed in ((KeyError("a"), True), (KeyError("a"), False), (KeyError("b"), True)):
        told = logging.LogRecord(*_RECORD, (type(error), error, None))
        assert found.filter(told) is passed


@pytest.mark.parametrize("given", [("%d", "x"), ("%s %s", "x")])
def test_what_cannot_be_formatted_is_for_the_handler(given: tuple[str, ...]) -> None:
    record = logging.LogRecord("ours", logging.ERROR, __file__, 1, given[0], given[1:], None)
    assert Repeats().filter(record)


def test_it_remembers_no_more_than_it_may() -> None:
    log = Log()
    for number in range(5000):
        log.say("it fails with %s", f"n{number}")
    log.say("it fails with n4999")
    assert len(log.lines) == 5000

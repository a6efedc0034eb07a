"""Troubles: each is told when it begins and when it is over, and a restart tells none again."""

from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.daemon.news import OVER, STALE, WRONG, News
from samba_rvss.daemon.troubles import AWAY_SECONDS, Troubles

LATE = News(event=WRONG, reason="[vms]: a callout has been under way for 31 s", share="vms")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notified.json")


def _looked(troubles: Troubles, present: float, *found: News, whole: bool = True) -> list[News]:
    begun = troubles.look(found, present, whole=whole)
    for news in begun:
        troubles.told(news)
    return begun


def test_one_that_lasts_is_told_once_and_so_is_its_end(path: str) -> None:
    troubles = Troubles(path)
    assert _looked(troubles, 0.0, LATE) == [LATE]
    older = replace(LATE, reason=LATE.reason.replace("31", "9000.5"))
    for time in range(1, 100):
        assert _looked(troubles, time * 600.0, older) == []
        assert troubles.over(time * 600.0) == []
    assert _looked(troubles, 60000.0) == []
    assert troubles.over(60000.0 + AWAY_SECONDS - 1) == []
    assert troubles.over(60000.0 + AWAY_SECONDS) == [replace(LATE, event=OVER)]
    assert troubles.over(99999.0) == []
    assert _looked(troubles, 99999.0, LATE) == [LATE]


def test_what_comes_and_goes_is_one(path: str) -> None:
    troubles = Troubles(path)
    assert _looked(troubles, 0.0, LATE) == [LATE]
    for time in range(10, 10000, 20):
        assert _looked(troubles, time) == []
        assert troubles.over(time) == []
        assert _looked(troubles, time + 10.0, LATE) == []
    assert troubles.over(10010.0) == []


def test_what_was_not_seen_is_not_over(path: str) -> None:
    troubles = Troubles(path)
    other = News(event=WRONG, reason="smb.conf cannot be read")
    _looked(troubles, 0.0, LATE)
    assert _looked(troubles, 10.0, other, whole=False) == [other]
    assert troubles.over(10000.0) == []


def test_what_a_look_cannot_see_ends_otherwise(path: str) -> None:
    troubles = Troubles(path)
    news = News(event="failure", reason="not taken: no room", share="vms")
    assert troubles.begin("take vms", news) is news
    assert troubles.begin("take vms", replace(news, reason="not taken: late")) is None
    troubles.told(news)
    _looked(troubles, 0.0)
    assert troubles.over(9999.0) == []
    troubles.end("take vms", 10.0)
    troubles.end("take vms", 600.0)
    assert troubles.over(10.0 + AWAY_SECONDS) == [replace(news, event=OVER)]


def test_what_was_never_told_is_over_without_a_word(path: str) -> None:
    troubles = Troubles(path)
    assert troubles.look([LATE], 0.0, whole=True) == [LATE]
    assert troubles.text() == ""
    _looked(troubles, 1.0)
    assert troubles.over(9999.0) == []


def test_a_restart_tells_nothing_again(path: str) -> None:
    before = Troubles(path)
    _looked(before, 0.0, LATE)
    before.store(before.text())
    assert before.text() == ""
    after = Troubles(path)
    after.load()
    assert after.text() == ""
    assert _looked(after, 5.0, LATE) == []
    _looked(after, 10.0)
    assert after.over(10.0 + AWAY_SECONDS) == [replace(LATE, event=OVER)]
    assert after.text() == "[]"
    assert Path(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[", "{}", "[[1]]", '[["a", true, {"event": 1}]]', "\xff"])
def test_a_damaged_file_stops_nothing(path: str, text: str) -> None:
    Path(path).write_bytes(text.encode("latin-1"))
    troubles = Troubles(path)
    troubles.load()
    assert _looked(troubles, 0.0, LATE) == [LATE]
    troubles.store(troubles.text())
    again = Troubles(path)
    again.load()
    assert _looked(again, 0.0, LATE) == []


def test_too_many_are_not_told_again_and_again(path: str) -> None:
    troubles = Troubles(path)
    many = [News(event=WRONG, reason=f"[{number}]: no room") for number in range(2000)]
    told = _looked(troubles, 0.0, *many)
    assert 0 < len(told) < 2000
    assert _looked(troubles, 1.0, *many) == []
    troubles.store(troubles.text())
    again = Troubles(path)
    again.load()
    assert _looked(again, 2.0, *many) == []
    assert _looked(again, 3.0) == []
    assert len(again.over(3.0 + AWAY_SECONDS)) == len(told)


def test_what_tells_troubles_apart() -> None:
    def key(reason: str, event: str = WRONG) -> str:
        return News(event=event, reason=reason, share="vms").key

    assert key("[vms 1]: late") != key("[vms 2]: late")
    assert key("the mount of /srv/1 is late") != key("the mount of /srv/2 is late")
    first, second = "20261126T133000Z-12345678", "20261126T133000Z-12345679"
    assert key(f"{first} is not sealed for 7 s") != key(f"{second} is not sealed for 7 s")
    assert key(f"{first} is not sealed for 7 s") == key(f"{first} is not sealed for 123.4 s")
    ids = "00000000-1111-2222-3333-444444444444", "00000000-1111-2222-3333-444444444445"
    assert key(f"the set {ids[0]} waits") != key(f"the set {ids[1]} waits")
    pruned = "pruning at {} left what was to go"
    assert key(pruned.format("2026-11-26 12:30:01")) == key(pruned.format("2026-11-27 00:30:59"))
    assert key("it is 36 h 1 min old", STALE) == key("there is none", STALE)


def test_the_environment_is_lines_of_text() -> None:
    news = News(event=WRONG, reason="x\ny\0\x1b[2J" + "z" * 5000, share="a\udcffb")
    found = news.environment("/etc/samba/smb.conf", 3)
    assert found["RVSS_REASON"].startswith(r"x\ny\x00\x1b[2Jzzz")
    assert len(found["RVSS_REASON"]) == 2000
    assert found["RVSS_SHARE"] == r"a\udcffb"
    assert (found["RVSS_CONFIG"], found["RVSS_DROPPED"]) == ("/etc/samba/smb.conf", "3")

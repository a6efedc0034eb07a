"""Holds and clones by one program: what it tells is believed, whatever becomes of it."""

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.providers.zfs import batch
from samba_rvss.providers.zfs.batch import Done, hold_and_clone

_TOLD = """\
print('["held", "a@1"]')
print('["cloned", "home/1"]')
"""
_ODD = """\
for line in '{}', '[]', '[1, 2]', '7', '["held"]', '["held", []]', '["held", "b':
    print(line)
"""
_DONE = Done(held=frozenset({"a@1"}), cloned=frozenset({"home/1"}))


@pytest.mark.parametrize(
    ("program", "done"),
    [
        (_TOLD, _DONE),
        (_TOLD + _ODD, _DONE),
        (_TOLD + "raise SystemExit('failed')", _DONE),
        (_ODD, Done()),
        ("", Done()),
    ],
)
def test_what_was_told_was_done(monkeypatch: pytest.MonkeyPatch, program: str, done: Done) -> None:
    monkeypatch.setattr(batch, "_PROGRAM", program)
    assert hold_and_clone(["a@1", "b@2"], {"home/1": "a@1"}, 60) == done


def test_what_does_not_end_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_PROGRAM", "import time\ntime.sleep(600)")
    with pytest.raises(RvssError) as caught:
        hold_and_clone(["a@1", "b@2"], {}, 0.5)
    assert caught.value.problem is Problem.TOOL
    assert caught.value.message == (
        "the holds and clones of 2 snapshots were not there within 0.5 s"
    )

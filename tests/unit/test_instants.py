"""What is said to be of one instant."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from samba_rvss.copies import instants
from samba_rvss.copies.instants import OneInstant
from samba_rvss.model import Phase, ShadowCopy
from tests.unit.values import NOW, SET, copy_of


def _copy(name: str, transid: int, *, on: str = "fs", seconds: float = 0.0) -> ShadowCopy:
    copy = copy_of(name, Phase.SEALED)
    return replace(
        copy,
        set_id=SET,
        set_size=2,
        transid=transid,
        taken=NOW + timedelta(seconds=seconds),
        volume=replace(copy.volume, file_system=on),
    )


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([_copy("a", 5), _copy("b", 5)], OneInstant.SET),
        ([_copy("a", 5), _copy("b", 6)], OneInstant.VOLUME),
        ([_copy("a", 5), _copy("b", 0)], OneInstant.VOLUME),
        ([_copy("a", 0), _copy("b", 5)], OneInstant.NONE),
        ([_copy("a", 5), _copy("b", 9, on="another")], OneInstant.SET),
        # The other one's record is not there, or does not say yet that it is a member.
        ([_copy("a", 5)], OneInstant.VOLUME),
        ([replace(_copy("a", 5), set_id=""), _copy("b", 5)], OneInstant.VOLUME),
        # Of before there was such a thing.
        ([replace(_copy("a", 0), taken=None), _copy("b", 5)], None),
    ],
)
def test_what_is_of_one_instant(members: Sequence[ShadowCopy], said: OneInstant | None) -> None:
    assert instants.of(members[0], members) is said


def test_the_time_between_file_systems() -> None:
    one = [_copy("a", 5), _copy("b", 5, seconds=0.5)]
    assert instants.gap(one) is None
    other = _copy("c", 7, on="another", seconds=0.75)
    assert instants.gap([*one, other]) == timedelta(seconds=0.25)

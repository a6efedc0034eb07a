"""Microsoft's test suite for file servers: what a Samba server answers, and where it differs.

A case that differs is an expected failure, which names Samba's function. It has to differ in just
the ways that are known: a Samba that mends one of them fails the test.
"""

from collections.abc import Callable, Iterator

import pytest

from samba_rvss.testing.leftovers import ASIDE
from tests.samba.lanes import Lane, lane
from tests.samba.microsoft import CASES, GAPS, Case, Steps

_ONE_OF_EACH = tuple(next(case for case in CASES if gap in case.gaps) for gap in GAPS)
"""A case for each difference, for Samba 4.22."""


@pytest.fixture(scope="module", params=["btrfs", "zfs"])
def server(request: pytest.FixtureRequest) -> Iterator[Lane]:
    """A file server for all cases."""
    kind: str = request.param
    with lane(kind, {}) as made:
        own = {made.rig.samba.pid, made.rig.daemon.pid}
        ASIDE.update(own)
        yield made
        ASIDE.difference_update(own)


def _writes(server: Lane) -> Callable[[str], bool]:
    from samba_rvss.testing.smbclient import SmbError

    def writes(share: str) -> bool:
        with server.rig.session(share) as session:
            try:
                session.write("new", b"by the suite")
            except SmbError:
                return False
        return True

    return writes


@pytest.mark.vm(seconds=6, server="zfs", case=_ONE_OF_EACH)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_case(server: Lane, case: Case) -> None:
    with server.rig.client() as client:
        steps = Steps(client, _writes(server))
        case.run(steps)
    assert steps.found == [(gap.method, gap.wanted, gap.got) for gap in case.gaps]
    server.rig.assert_nothing_left()
    if case.gaps:
        pytest.xfail("; ".join(dict.fromkeys(map(str, case.gaps))))

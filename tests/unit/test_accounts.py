"""Whether a list such as ``valid users`` has an account, as far as this machine can tell."""

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba import accounts


@pytest.mark.parametrize(
    ("users", "has"),
    [
        (["root"], True),
        (["@root"], True),
        (["+root", "nobody"], True),
        (["S-1-22-1-0"], True),
        (["nobody", "@nogroup"], False),
        (["S-1-22-1-1"], False),
        (["&root"], None),
        (["S-1-5-32-544"], None),
        (["nobody-of-that-name"], None),
    ],
)
def test_whether_a_list_of_users_has_an_account(users: list[str], has: bool | None) -> None:  # noqa: FBT001 - a parameter of a test
    assert accounts.has(users, "root", 0) is has


def test_an_account_that_is_not_there() -> None:
    assert accounts.uid_of("root") == 0
    with pytest.raises(RvssError, match="no account") as caught:
        accounts.uid_of("nobody-of-that-name")
    assert caught.value.problem is Problem.NOT_FOUND

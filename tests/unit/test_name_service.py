"""Whether doctor sees that users of a domain are looked up."""

from pathlib import Path

import pytest

from samba_rvss.cli.doctor.here import asks_domain


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("passwd: files winbind", True),
        ("passwd:\tfiles systemd sss", True),
        ("passwd: files [NOTFOUND=continue] ldap", True),
        ("passwd: files vas4", True),
        ("passwd: files systemd", False),
        ("passwd: compat [SUCCESS=merge winbind=return] systemd", False),
        ("passwd: files # winbind", False),
        ("group: files winbind", False),
        ("", False),
    ],
)
def test_users_of_a_domain_are_looked_up(tmp_path: Path, line: str, asks: bool) -> None:  # noqa: FBT001
    file = tmp_path / "nsswitch.conf"
    file.write_text(f"# passwd: winbind\n{line}\nhosts: files dns\n")
    assert asks_domain(str(file)) is asks


def test_there_is_no_such_file(tmp_path: Path) -> None:
    assert not asks_domain(str(tmp_path / "nsswitch.conf"))

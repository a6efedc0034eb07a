"""The error class: what it says on the wire, in the journal and to an administrator."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss import cli
from samba_rvss.errors import Problem, RvssError

# What the kernel may put into a name: any bytes, undecodable ones as surrogates.
_names = st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def test_message_and_hint() -> None:
    error = RvssError(Problem.BUSY, "/srv/vm is in use", "close it")
    assert str(error) == "/srv/vm is in use: close it"
    assert str(RvssError(Problem.BUSY, "/srv/vm is in use")) == "/srv/vm is in use"
    assert (error.problem, error.message, error.hint) == (
        Problem.BUSY,
        "/srv/vm is in use",
        "close it",
    )


def test_it_can_be_raised_and_caught() -> None:
    with pytest.raises(RvssError, match="no such copy") as caught:
        raise RvssError(Problem.NOT_FOUND, "no such copy")
    assert caught.value.problem is Problem.NOT_FOUND


def test_line_is_one_line_that_hides_nothing() -> None:
    """Two blanks are two, and the end of a line in a name is no blank: they are other names."""
    assert RvssError(Problem.BUSY, "'/srv/my  vms/a\n\x1b[2Jb' is in use  ").line() == (
        r"'/srv/my  vms/a\n\x1b[2Jb' is in use"
    )


@given(message=_names | st.text(), hint=_names | st.text())
def test_line_can_always_be_sent(message: str, hint: str) -> None:
    line = RvssError(Problem.INTERNAL, message, hint).line()
    assert line.encode("utf-8").decode("utf-8") == line
    assert len(line.splitlines()) <= 1


def test_numbers_fit_an_exit_status() -> None:
    """0 is success; the shell keeps 126 and above; an alias would be a number used twice."""
    assert all(0 < problem < 126 for problem in Problem)
    assert len(Problem) == len(Problem.__members__)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a command is missing: see 'samba-rvss --help'"),
        (["backup"], "a command is missing: see 'samba-rvss backup --help'"),
        (
            ["stauts"],
            "there is no command stauts: 'samba-rvss status' may be meant; see 'samba-rvss --help'",
        ),
        (
            ["backup", "lst"],
            "there is no command lst: 'samba-rvss backup list' may be meant; see 'samba-rvss",
        ),
        (["xyzzy"], "there is no command xyzzy: see 'samba-rvss --help'"),
        (["events", "--limit"], "argument --limit: expected one argument: see 'samba-rvss events"),
    ],
)
def test_a_wrong_command_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == Problem.USAGE
    assert capsys.readouterr().err.startswith(f"samba-rvss: {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backup", "verify", "ID", "--against", ""], "--against has an empty value"),
        (["backup", "restore", "ID", "--target="], "--target has an empty value"),
        (["-s", "", "status"], "-s has an empty value"),
        (["check", ""], "an argument is empty"),
        (["backup", "restore", ":a file"], "there is no ID in :a file"),
    ],
)
def test_a_variable_that_is_not_set_is_no_choice(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option with an empty value is not one that is left out."""
    assert cli.main(words) == Problem.USAGE
    assert said in capsys.readouterr().err
    found = cli.main(["-s", "/no/such", "backup", "exec", "ID", "--", "program", ""])
    assert found != Problem.USAGE

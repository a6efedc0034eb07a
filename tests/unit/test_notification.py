"""``rvss:notify command``: it runs as root, so only what root alone can write says what it is."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import run
from samba_rvss.samba import conf, notification
from samba_rvss.samba.conf import Config
from samba_rvss.samba.process import SambaProcess

pytestmark = [pytest.mark.require("root", "smbd")]

USER = 12345
NAME = "rvss:notify command"


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory of root's in /tmp, where everybody may write."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


class Site:
    """A directory with an smb.conf, what that includes, and a registry."""

    def __init__(self, directory: Path) -> None:
        self.file, self.included = directory / "smb.conf", directory / "more.conf"
        for name in ("state", "lock", "cache", "private"):
            (directory / name).mkdir()
        self._places = (
            f"    state directory = {directory}/state\n    lock directory = {directory}/lock\n"
            f"    cache directory = {directory}/cache\n    private dir = {directory}/private\n"
        )
        self.included.write_text("")

    def load(self, *lines: str, shares: str = "") -> Config:
        """Read smb.conf with more lines in [global], in a new process."""
        more = "".join(f"    {line}\n" for line in lines)
        self.file.write_text(f"[global]\n{self._places}{more}{shares}")
        with closing(SambaProcess()) as samba:
            return samba.call(conf.load, str(self.file))

    def in_registry(self, section: str, text: str) -> None:
        """Write the option into a section of the registry."""
        self.load("registry shares = yes")
        run(["net", "-s", str(self.file), "conf", "setparm", section, NAME, text], timeout=30)


@pytest.fixture
def site(top: Path) -> Site:
    return Site(top)


def _about(config: Config) -> list[str]:
    return [line for line in config.warnings if NAME in line]


def test_the_words_of_global(site: Site) -> None:
    config = site.load(f"{NAME} = /bin/tell --to 'the office' $HOME; rm")
    assert config.notify_command == ("/bin/tell", "--to", "the office", "$HOME;", "rm")
    assert _about(config) == []
    assert site.load().notify_command == ()
    # Spelt as Samba allows it, the last one counts.
    config = site.load(f"{NAME} = /bin/one", "RVSS:NotifyCommand = /bin/two")
    assert (config.notify_command, _about(config)) == (("/bin/two",), [])


@pytest.mark.parametrize(
    ("text", "why"),
    [("mail root", "absolute path"), ("/bin/tell 'x", "cannot be split"), ("./x", "absolute path")],
)
def test_what_is_no_program_is_named_and_stops_nothing(site: Site, text: str, why: str) -> None:
    config = site.load(f"{NAME} = {text}")
    (line,) = _about(config)
    assert (config.notify_command, why in line) == ((), True), line


def test_not_from_an_included_file(site: Site) -> None:
    site.included.write_text(f"{NAME} = /bin/evil\n")
    config = site.load(f"include = {site.included}")
    (line,) = _about(config)
    assert config.notify_command == ()
    assert f"in {site.included} is not run" in line
    # It may even come later, and win in Samba's eyes.
    config = site.load(f"{NAME} = /bin/good", f"include = {site.included}")
    (line,) = _about(config)
    assert config.notify_command == ("/bin/good",)
    assert f"in {site.included} is not run" in line


@pytest.mark.parametrize("lines", [("registry shares = yes", "include = registry"), ()])
def test_not_from_the_registry(site: Site, lines: tuple[str, ...]) -> None:
    site.in_registry("global", "/bin/evil")
    config = site.load(f"{NAME} = /bin/good", *lines)
    assert config.notify_command == ("/bin/good",)
    assert len(_about(config)) == bool(lines)
    config = site.load("include = registry")
    (line,) = _about(config)
    assert (config.notify_command, "is not run" in line) == ((), True), line


def test_not_from_a_file_whose_name_has_a_macro(site: Site) -> None:
    site.included.rename(site.included.with_name("smb.conf.evil"))
    site.included.with_name("smb.conf.evil").write_text(f"{NAME} = /bin/evil\n")
    config = site.load("netbios name = evil", f"include = {site.file}.%L")
    assert config.notify_command == ()
    assert all("is not run" in line for line in _about(config))


def test_not_from_a_share(site: Site) -> None:
    config = site.load(shares=f"[vms]\n    path = /srv\n    {NAME} = /bin/evil\n")
    assert config.notify_command == ()
    assert any(f"'{NAME}', which belongs in [global]" in line for line in config.notes)
    site.in_registry("other", "/bin/evil")
    config = site.load("registry shares = yes")
    assert config.notify_command == ()
    assert any("[other]" in line and NAME in line for line in config.notes)


def test_not_from_a_file_that_others_may_write(site: Site) -> None:
    site.load()
    site.file.chmod(0o664)
    config = site.load(f"{NAME} = /bin/tell")
    (line,) = _about(config)
    assert config.notify_command == ()
    assert f"others than root may write to {site.file}" in line
    site.file.chmod(0o644)
    assert site.load(f"{NAME} = /bin/tell").notify_command == ("/bin/tell",)


@pytest.mark.parametrize("what", ["his", "group's", "way", "link", "not executable", "a directory"])
def test_a_program_that_others_could_replace_is_refused(top: Path, what: str) -> None:
    way = top / "way"
    way.mkdir()
    program = way / "tell"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    given = program
    assert notification.obstacle((str(program),)) == ""
    match what:
        case "his":
            os.chown(program, USER, USER)
        case "group's":
            program.chmod(0o775)
        case "way":
            os.chown(way, USER, USER)
        case "link":
            given = top / "link"
            given.symlink_to(program)
            assert notification.obstacle((str(given),)) == ""
            os.chown(given, USER, USER, follow_symlinks=False)
        case "not executable":
            program.chmod(0o644)
        case _:
            given = way
    with pytest.raises(RvssError, match="is not run") as caught:
        notification.require_program((str(given), "word"))
    assert caught.value.problem is Problem.REFUSED


def test_a_program_that_is_not_there(top: Path) -> None:
    with pytest.raises(RvssError, match="there is no program") as caught:
        notification.require_program((f"{top}/none",))
    assert caught.value.problem is Problem.MISSING

"""packaging/install puts everything where the README, the units and the manual say it is."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from samba_rvss import __version__
from samba_rvss.cli import parser
from samba_rvss.cli.doctor.confining import SHIPPED
from samba_rvss.testing.example import HOOK

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed; nobody changes it."""
    to = tmp_path_factory.mktemp("installed")
    for _ in range(2):  # the second time replaces the first
        subprocess.run(
            [ROOT / "packaging" / "install"],
            env={**os.environ, "DESTDIR": str(to)},
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
    return to


def test_hook_is_where_the_example_says(installed: Path) -> None:
    hook = installed / HOOK.lstrip("/")
    done = subprocess.run(
        [hook, "-S", installed / "none.sock", "check", "/srv"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 22
    assert "start samba-rvss.service" in done.stderr


def test_command_runs(installed: Path, tmp_path: Path) -> None:
    command = (installed / "usr/bin/samba-rvss").read_text()
    moved = tmp_path / "samba-rvss"
    moved.write_text(command.replace('"/usr/lib', f'"{installed}/usr/lib'))
    done = subprocess.run(
        ["/usr/bin/python3", "-I", moved, "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == f"samba-rvss {__version__}\n"


def test_units_start_what_is_installed(installed: Path) -> None:
    units = installed / "usr/lib/systemd/system"
    assert {unit.name for unit in units.iterdir()} == {
        path.name for path in (ROOT / "systemd").iterdir()
    }
    services = sorted(units.glob("*.service"))
    assert len(services) == 5
    for unit in services:
        ((program, verb),) = re.findall(r"^ExecStart=(\S+) (.+)$", unit.read_text(), re.M)
        assert (installed / program.lstrip("/")).stat().st_mode & 0o111
        parser().parse_args(verb.split())


def test_enabling_the_service_enables_all(installed: Path) -> None:
    """Sockets alone would start the daemon after smbd; the timer is of no use without it."""
    units = installed / "usr/lib/systemd/system"
    text = (units / "samba-rvss.service").read_text()
    (wanted,) = re.findall(r"^WantedBy=(.+)$", text, re.M)
    assert {"multi-user.target", "smbd.service"} <= set(wanted.split())
    (also,) = re.findall(r"^Also=(.+)$", text, re.M)
    installing = {unit.name for unit in units.iterdir() if "[Install]" in unit.read_text()}
    others = {name for name in installing if "@" not in name}  # those are for a backup each
    assert set(also.split()) == others - {"samba-rvss.service"}
    # Whoever enables and starts it has all of them at once; and what is disabled stays so.
    for unit in sorted(others - {"samba-rvss.service"}):
        own = (units / unit).read_text()
        required = re.findall(r"^Requires=(.+)$", text, re.M)
        by_it = "samba-rvss.service" in " ".join(re.findall(r"^WantedBy=(.+)$", own, re.M)).split()
        assert by_it is unit.endswith(".timer"), unit
        assert (unit in " ".join(required).split()) is unit.endswith(".socket"), unit
    assert "\nWants=" not in text
    (before,) = re.findall(r"^Before=(.+)$", text, re.M)
    assert "smbd.service" in before.split()


def test_what_cannot_be_written_leaves_what_was_there(installed: Path, tmp_path: Path) -> None:
    """A full disk, or here a limit that some files exceed."""
    to = shutil.copytree(installed, tmp_path / "to")

    def files() -> dict[str, int]:
        return {
            str(path.relative_to(to)): path.stat().st_ino
            for path in to.rglob("*")
            if path.is_file() and ".new" not in str(path)
        }

    before = files()
    assert not [path for path in installed.rglob("*") if path.suffix in (".new", ".old")]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 8; exec "$0"', ROOT / "packaging" / "install"],
        env={**os.environ, "DESTDIR": str(to)},
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert done.returncode != 0
    assert files() == before


def test_manual_pages_are_installed(installed: Path) -> None:
    found = (installed / "usr/share/man").glob("*/*")
    pages = {f"{page.parent.name}/{page.name}" for page in found}
    sources = (ROOT / "packaging" / "man").iterdir()
    assert pages == {f"man{page.suffix[1:]}/{page.name}" for page in sources}


def test_completion_is_installed(installed: Path) -> None:
    """Where Debian's shells look for it."""
    for file, word in (
        ("bash-completion/completions/samba-rvss", "complete -F"),
        ("zsh/vendor-completions/_samba-rvss", "#compdef samba-rvss"),
        ("fish/vendor_completions.d/samba-rvss.fish", "complete -c samba-rvss"),
    ):
        assert word in (installed / "usr/share" / file).read_text()


def test_the_catalog_is_installed(installed: Path) -> None:
    assert (installed / "usr/lib/systemd/catalog/samba-rvss.catalog").is_file()


def test_the_policies_are_where_doctor_says(installed: Path) -> None:
    found = {path.name for path in installed.joinpath(SHIPPED[1:]).glob("*/*")}
    assert found == {"samba-rpcd", "usr.sbin.smbd", "samba_rvss.cil"}


def test_arguments_are_refused() -> None:
    done = subprocess.run(
        [ROOT / "packaging" / "install", "--nonsense"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert "--help" in done.stderr

"""packaging/build makes packages that have what packaging/install installs."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from samba_rvss import __version__

ROOT = Path(__file__).parents[2]
_SECONDS = 600
# Where Debian and Fedora want what is elsewhere without a package.
_MODULES = re.compile(r"^/usr/lib/(samba-rvss|python3/dist-packages|python3\.\d+/site-packages)/")
_UNITS = re.compile(r"^(/usr)?/lib/systemd/system/")
_ZSH = re.compile(r"^/usr/share/zsh/(vendor-completions|site-functions)/")
_MANUAL = re.compile(r"\.([1-8])(\.gz)?$")
# Only where Python itself looks.
_ABOUT = f"/samba_rvss-{__version__}.dist-info/"
_DOCUMENTS = ("/usr/share/doc/", "/usr/share/licenses/", "/usr/share/lintian/")


def _run(words: Sequence[str | Path], **more: str) -> str:
    done = subprocess.run(
        words,
        env={**os.environ, **more},
        check=False,
        timeout=_SECONDS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def _built(kind: str, to: Path) -> Path:
    """Build a package, without the tests in it: they run beside this one."""
    _run([ROOT / "packaging" / "build", kind, to], DEB_BUILD_OPTIONS="nocheck")
    names = {"deb": f"samba-rvss_{__version__}_all.deb", "rpm": "samba-rvss-*.noarch.rpm"}
    (package,) = to.glob(names[kind])
    return package


def _files(names: Sequence[str]) -> set[str]:
    """Return which files there are, as they would be without a package; no documents."""
    found = set()
    for name in names:
        if name.endswith("/") or name.startswith(_DOCUMENTS) or _ABOUT in name:
            continue
        name = _MODULES.sub("/usr/lib/samba-rvss/", name)
        name = _UNITS.sub("/usr/lib/systemd/system/", name)
        name = _ZSH.sub("/usr/share/zsh/", name)
        found.add(_MANUAL.sub(r".\1", name))
    return found


def _installed(to: Path) -> set[str]:
    _run([ROOT / "packaging" / "install"], DESTDIR=str(to))
    return _files([f"/{path.relative_to(to)}" for path in to.rglob("*") if path.is_file()])


@pytest.mark.require("debhelper")
def test_debian(tmp_path: Path) -> None:
    package = _built("deb", tmp_path / "deb")
    unpacked = tmp_path / "unpacked"
    _run(["dpkg-deb", "--raw-extract", package, unpacked])
    names = [
        f"/{path.relative_to(unpacked)}"
        for path in unpacked.rglob("*")
        if path.is_file() and path.parent.name != "DEBIAN"
    ]
    assert _files(names) == _installed(tmp_path / "installed")
    assert any(name.endswith(f"{_ABOUT}entry_points.txt") for name in names)
    assert any(name.endswith("/examples/container/compose.yml") for name in names)

    # What deletes backups by the clock is started by the clock alone.
    scripts = "".join(
        path.read_text() for path in (unpacked / "DEBIAN").iterdir() if path.name != "md5sums"
    )
    assert "samba-rvss-prune.timer" in scripts
    assert "samba-rvss-prune.service" not in scripts
    assert "samba-rvss-reconcile.service" not in scripts
    # A callout that queues while the daemon is replaced is answered by the new one.
    postinst = (unpacked / "DEBIAN" / "postinst").read_text()
    asked = re.findall(r"deb-systemd-invoke (\S+) (.*?) >", postinst)
    assert [verb for verb, _ in asked] == ["start", "restart"], "what is new starts, nothing stops"
    assert asked[1][1] == "samba-rvss.service"
    prerm = (unpacked / "DEBIAN" / "prerm").read_text()
    assert re.findall(r'"\$1" = (\w+) ', prerm) == ["remove"], "it stops them when it goes only"
    assert "/var/lib" not in scripts, "purging leaves what says whose the images are"

    (changes,) = (tmp_path / "deb").glob("*.changes")
    words = ["lintian", "--allow-root", "--fail-on", "warning", "--tag-display-limit", "0"]
    assert not re.findall(r"^[EW]: .*$", _run([*words, changes]), re.M)


@pytest.mark.require("rpmbuild")
def test_rpm(tmp_path: Path) -> None:
    package = _built("rpm", tmp_path / "rpm")
    # A listing has directories too; those have no digest.
    query = "[%{FILENAMES} %{FILEDIGESTS}\\n]"
    rows = _run(["rpm", "-qp", "--queryformat", query, package]).splitlines()
    names = [name for name, _, digest in (row.partition(" ") for row in rows) if digest]
    assert _files(names) == _installed(tmp_path / "installed")
    assert any(name.endswith("/container/compose.yml") for name in names)


def test_packagers_are_told_of_each_absolute_path() -> None:
    """Of each file that a distribution with other directories has to change."""
    told = (ROOT / "packaging" / "PACKAGING.md").read_text()
    table = told.split("has to change:\n", 1)[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.M)
    listed = {name for cell in cells for name in re.findall(r"`(.+?)`", cell)}
    ours = re.compile(r"^[^#\n]*(/usr/(libexec|share|bin)/(samba-rvss|python3)|/usr/sbin:)", re.M)
    kinds = ("samba_rvss/**/*.py", "systemd/*", "packaging/apparmor/*", "packaging/install")
    found = {
        f"{path.parent.name}/" if path.parent.name == "systemd" else str(path.relative_to(ROOT))
        for kind in kinds
        for path in ROOT.glob(kind)
        if path.is_file() and ours.search(path.read_text())
    }
    assert found | {"samba_rvss/hook.py"} == listed


def test_packagers_are_told_of_each_dependency() -> None:
    told = (ROOT / "packaging" / "PACKAGING.md").read_text().lower()
    control = (ROOT / "packaging" / "debian" / "control").read_text()
    needed = re.findall(r"^ python3-(\w+)(?:-\w+)?\b", control, re.M)
    assert {name for name in needed if name not in told} == set()


def test_an_installed_tree_is_needed_for_a_check(tmp_path: Path) -> None:
    check = ROOT / "packaging" / "check"
    for words, status in (([], 2), (["--help"], 0), ([tmp_path], 1), (["relative"], 2)):
        done = subprocess.run(
            [check, *words], check=False, timeout=30, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr


@pytest.mark.parametrize(("words", "status"), [((), 2), (("--help",), 0), (("tgz",), 2)])
def test_what_cannot_be_built_is_refused(words: Sequence[str], status: int) -> None:
    done = subprocess.run(
        [ROOT / "packaging" / "build", *words],
        check=False,
        timeout=30,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    assert "usage: packaging/build deb|rpm" in done.stdout + done.stderr

"""The linters, as tests: Python, shell, units and manuals.

tests/run installs them and says in SAMBA_RVSS_LINT where ruff and mypy are.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each of these gives a service a mount namespace of its own (systemd.exec(5)), in which its mounts
# stay invisible to smbd, or keeps it from block devices or openat2(2), which it needs.
FORBIDDEN = re.compile(
    r"""(Protect(System|Home|Proc|Clock|KernelTunables|KernelModules|KernelLogs|ControlGroups)
    |Private(Tmp|Devices|Mounts|Users)|ProcSubset|DynamicUser|MountFlags|MountAPIVFS|Root.*
    |(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec)Paths|Bind(ReadOnly)?Paths|TemporaryFileSystem
    |DeviceAllow|DevicePolicy|RestrictSUIDSGID)\s*=""",
    re.VERBOSE,
)


def _tool(name: str) -> str:
    places = os.pathsep.join([os.environ.get("SAMBA_RVSS_LINT", ""), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    if found is None:
        reason = f"{name} is not installed; tests/run installs it"
        if {"all", "lint"} & set(os.environ.get("SAMBA_RVSS_REQUIRE", "").split(",")):
            pytest.fail(reason)
        pytest.skip(f"{reason}; SAMBA_RVSS_REQUIRE=lint makes this a failure")
    return found


def _clean(*argv: str | Path) -> None:
    """Run a linter; it must succeed."""
    done = subprocess.run(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{argv[0]} says:\n{done.stdout}{done.stderr}"


def _silent(*argv: str | Path) -> None:
    """Run a linter whose exit status tells less than its words; it must say nothing."""
    done = subprocess.run(
        argv,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def _files() -> Iterator[Path]:
    for directory in (".ci", "packaging", "tests"):
        for path in sorted((ROOT / directory).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(100)
    return path.suffix == ".sh" or re.match(rb"#!\s*\S*(/|\benv )(ba|da)?sh\b", first) is not None


def test_ruff_check() -> None:
    _clean(_tool("ruff"), "check", "--output-format=concise", ".")


def test_ruff_format() -> None:
    _clean(_tool("ruff"), "format", "--check", ".")


def test_mypy() -> None:
    _clean(_tool("mypy"))


def test_shellcheck() -> None:
    scripts = [path for path in _files() if _is_shell(path)]
    assert ROOT / "tests" / "run" in scripts
    _clean(_tool("shellcheck"), "--external-sources", *scripts)


def test_units(tmp_path: Path) -> None:
    """`systemd-analyze verify`, with a program that exists here in ExecStart's place."""
    for unit in (ROOT / "systemd").iterdir():
        text = re.sub(r"(?m)^(Exec\w+=)/\S+", r"\1/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    units = sorted(tmp_path.iterdir())
    assert {unit.suffix for unit in units} >= {".service", ".socket"}
    _silent(_tool("systemd-analyze"), "--man=no", "verify", *units)


@pytest.mark.parametrize(
    ("service", "exposure"),
    [
        ("samba-rvss", 5.6),
        ("samba-rvss-prune", 5.1),
        ("samba-rvss-manifest", 5.0),
        ("samba-rvss-reconcile", 2.6),
    ],
)
def test_services_are_no_more_exposed_than_they_must_be(service: str, exposure: float) -> None:
    """By systemd's own count, from 0 (least) to 10.

    What is left to the daemon: what only a mount namespace of its own would take away, being root,
    mounting, block devices, real-time threads, and what `rvss:notify command` may need, such as
    the network.
    """
    file = ROOT / "systemd" / f"{service}.service"
    threshold = f"--threshold={10 * exposure:.0f}"
    _clean(_tool("systemd-analyze"), "security", "--offline=yes", "--no-pager", threshold, file)


def test_services_that_mount_keep_the_mounts_of_the_machine() -> None:
    mounting = []
    for unit in (ROOT / "systemd").glob("*.service"):
        text = unit.read_text()
        if re.search(r"(?m)^ExecStart=.* (daemon|reconcile --boot)$", text):
            mounting.append(unit.name)
            found = [line for line in text.splitlines() if FORBIDDEN.match(line)]
            assert found == [], unit.name
    assert mounting == ["samba-rvss.service"]


def test_no_unit_gives_up_for_good() -> None:
    """By default systemd does, after a few failures: for services (systemd.unit(5)) and sockets."""
    for unit in (ROOT / "systemd").iterdir():
        text = unit.read_text()
        if unit.suffix == ".socket":
            assert "\nTriggerLimitIntervalSec=0\n" in text.partition("[Socket]")[2], unit.name
        elif "Type=notify" in text:
            before, _, service = text.partition("[Service]")
            assert "\nStartLimitIntervalSec=0\n" in before, unit.name
            assert "\nRestart=always\n" in service, unit.name


def test_manuals() -> None:
    manuals = sorted((ROOT / "packaging" / "man").iterdir())
    assert manuals
    _silent(_tool("mandoc"), "-T", "lint", "-W", "warning", *manuals)

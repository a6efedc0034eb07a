"""The contract once more, on the file server of a domain: tests that are marked ``member``.

Samba has its default paths there, and its clients log on with Kerberos as a computer and a service
account; FSRVP is signed and sealed. The tests run in a pytest of that host's.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.run import ToolError
from samba_rvss.testing.plugin import REQUIRE
from samba_rvss.testing.supervisor import ROOT

if TYPE_CHECKING:
    from samba_rvss.testing.domain import Domain

_SECONDS = 900.0


def _chosen(path: Path) -> bool:
    return "\n@pytest.mark.member" in path.read_text("utf-8")


def test_contract(domain: "Domain") -> None:
    domain.end_daemon()
    domain.end_smbd()
    options = ["-p", "no:cacheprovider", "--durations=0", "--durations-min=1"]
    files = [str(path) for path in Path(ROOT, "tests/samba").glob("test_*.py") if _chosen(path)]
    try:
        said = domain.files.run(
            "env",
            f"--chdir={ROOT}",
            sys.executable,
            "-m",
            "pytest",
            *options,
            *files,
            timeout=_SECONDS,
            env={
                "SAMBA_RVSS_ON_MEMBER": "1",
                REQUIRE: "all",
                "SAMBA_RVSS_ROUNDS": "2",
                "HOME": "/root",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
    except ToolError as exc:
        pytest.fail(f"{exc.stdout}\n{exc.stderr if exc.stdout else exc}", pytrace=False)
    finally:
        domain.configure()
        domain.start_smbd()
        domain.start_daemon()
    print(said)

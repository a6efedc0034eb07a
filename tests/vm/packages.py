"""The Debian packages that the test machine installs: this checkout's, and a newer one.

Place: above `machine`, on the host. Contract: all is made in a directory that the caller gives.
"""

import re
import shutil
from pathlib import Path

from samba_rvss import __version__
from samba_rvss.run import run
from tests.vm.machine import ROOT, checkout

NEWER = f"{__version__}.1"
"""The version of the newer package, in which nothing else differs."""

_BUILD_SECONDS = 600.0


def build(directory: Path) -> tuple[Path, Path]:
    """Build both packages, without their tests, and return them: this one's, and the newer one.

    Args:
        directory: an empty one.

    Raises:
        RvssError: TOOL.
    """
    return _built(ROOT, directory / "this"), _built(_newer(directory / "tree"), directory / "newer")


def _newer(tree: Path) -> Path:
    """Return a copy of this checkout that has another version."""
    for name in checkout():
        place = tree / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place, follow_symlinks=False)
    for name in ("samba_rvss/__init__.py", "packaging/debian/changelog"):
        file = tree / name
        pattern = rf"(?<=[\"(]){re.escape(__version__)}(?=[\")])"
        file.write_text(re.sub(pattern, NEWER, file.read_text("utf-8"), count=1), "utf-8")
    return tree


def _built(tree: Path, to: Path) -> Path:
    words = [str(tree / "packaging" / "build"), "deb", str(to)]
    run(words, timeout=_BUILD_SECONDS, env={"DEB_BUILD_OPTIONS": "nocheck"})
    (package,) = to.glob("*.deb")
    return package

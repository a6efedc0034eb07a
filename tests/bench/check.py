"""What `samba-rvss check` costs: how long it lists a share, beside find(1) over the same tree.

    /usr/bin/python3 tests/bench/check.py [--files N] [--rounds N] [--below DIR]

Nothing of it needs root. Both have the tree in the cache, and take turns; the figures are medians.
Exit status 1 if the ratio is above ``--limit``.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.copies.examine import Examination, examine
from samba_rvss.kernel import files


def make(top: Path, count: int, width: int) -> None:
    """Make empty files, so many in each directory, and a hundred directories in one."""
    for number in range(count):
        directory = top / str(number // width // 100) / str(number // width)
        if number % width == 0:
            directory.mkdir(parents=True)
        os.mknod(directory / f"file {number}.txt")


def seconds_of_find(top: Path) -> float:
    """Return how long find(1) takes to print every name and what it is."""
    started = time.perf_counter()
    subprocess.run(["find", top, "-printf", "%y %P\\n"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def seconds_of_ours(top: Path) -> float:
    """Return how long it takes us to find what is worth telling."""
    started = time.perf_counter()
    with files.opened(os.open(top, files.DIRECTORY)) as root:
        examine(root, Examination())
    return time.perf_counter() - started


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--directory", type=int, default=100, help="files in each directory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=2.5, help="of the ratio")
    parser.add_argument("--below", default=None, help="where the tree is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rvss-bench-", dir=arguments.below) as made:
        top = Path(made)
        make(top, arguments.files, arguments.directory)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pairs = [(seconds_of_find(top), seconds_of_ours(top)) for _ in range(arguments.rounds)]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    theirs, ours = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"find: {theirs * 1000:.0f} ms, check: {ours * 1000:.0f} ms for {arguments.files} files")
    print(f"ratio {ours / theirs:.2f}, of at most {arguments.limit:g}; memory +{grown} KiB")
    return int(ours / theirs > arguments.limit)


if __name__ == "__main__":
    sys.exit(main())

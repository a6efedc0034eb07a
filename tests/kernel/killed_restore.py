"""A program that restores something, and is killed at one of the named points.

python3 -m tests.kernel.killed_restore STEP beside|"in place" PATH PART SHARE STATE INSTANCE LEDGER
"""

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from samba_rvss.copies import manifests, restore
from samba_rvss.copies.instance import Instance
from samba_rvss.ledger import Ledger
from samba_rvss.model import Identity
from samba_rvss.mounts import Mounts
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.restore import merge
from samba_rvss.restore.build import Source
from samba_rvss.restore.plan import Overwrite
from samba_rvss.restore.selection import Selection
from samba_rvss.restore.tally import Tally
from samba_rvss.samba.process import Here
from tests.unit.values import CONFIG


def main(words: Sequence[str]) -> int:
    """Do what the words say."""
    step, how, path, name, share, state, identity, file = words
    left = itertools.count(int(step), -1)

    def reached(point: str) -> None:
        assert point in restore.POINTS
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger = Ledger(file, read_only=True)
    instance = Instance(
        config=replace(CONFIG, run_directory=state, state_directory=state),
        ledger=ledger,
        mounts=Mounts(state),
        providers=(Btrfs(Identity(id=identity)),),
        samba=Here(),
    )
    part = ledger.get(name)
    assert part is not None
    tally, wanted = Tally(), Selection()
    if how == "beside":
        wish = restore.Wish(part=part, path=os.fsencode(path), wanted=wanted)
        restore.restore(instance, wish, tally, lambda: "", reached)
        return 0
    with manifests.opened(instance, part) as image, ExitStack() as closing:
        root = os.open(share, os.O_RDONLY | os.O_DIRECTORY)
        closing.callback(os.close, root)
        target = merge.Target(
            root=root,
            state=state,
            overwrite=Overwrite.ALWAYS,
            dry_run=False,
            in_use=lambda device, inode: False,
            manifest=None,
            reached=reached,
        )
        source = Source(root=image, wanted=wanted, trusted=True, tally=tally)
        merge.merge(source, target, os.fsencode(path))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A program that does something with a backup, and is killed at one of its steps.

    python3 -m tests.kernel.cut_off STEP mount|exec|manifest INSTANCE LEDGER RUN-DIRECTORY

Steps are the events of Python's audit hooks: whatever opens, makes, moves or starts something. The
exit status is 0 if there are fewer of them.
"""

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

from samba_rvss.copies import attached, carry, manifests
from samba_rvss.copies.instance import Instance
from samba_rvss.ledger import Ledger
from samba_rvss.manifests.make import Progress
from samba_rvss.model import Identity
from samba_rvss.mounts import Mounts
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.samba.process import Here
from tests.unit.values import CONFIG


def main(words: Sequence[str]) -> int:
    """Do what the words say."""
    step, verb, identity, file, run_directory = words
    ledger = Ledger(file)
    instance = Instance(
        config=replace(CONFIG, run_directory=run_directory, state_directory=run_directory),
        ledger=ledger,
        mounts=Mounts(run_directory),
        providers=(Btrfs(Identity(id=identity)),),
        samba=Here(),
    )
    left = itertools.count(int(step), -1)

    def hook(event: str, _: tuple[object, ...]) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    parts = sorted(ledger.backups(), key=lambda part: part.share)
    sys.addaudithook(hook)
    if verb == "mount":
        attached.mount(instance, parts)
        return 0
    if verb == "manifest":
        manifests.make(instance, parts[0], Progress(), anew=False)
        return 0
    return carry.run(instance, parts, ["true"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

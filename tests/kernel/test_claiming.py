"""Images that were taken together, and what can come before each has somebody who asked for it."""

import asyncio
import errno
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samba_rvss.copies import create
from samba_rvss.copies.create import Prepared, claim, discard, prepare
from samba_rvss.copies.delete import delete
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import Target, locate
from samba_rvss.daemon.present import Present
from samba_rvss.daemon.sets import Sets
from samba_rvss.daemon.tasks import Tasks
from samba_rvss.daemon.turns import Turns
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Identity, Phase, ShadowCopy, Share, Volume
from samba_rvss.providers.btrfs import together
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.run import run
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.sections import Section
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.plugin import require
from tests import descriptors
from tests.unit.site import with_samba

NAMES = ("a", "b", "c")
CLIENT = 1001
_SECONDS = 60.0


class Place:
    """An instance, and shares on a btrfs."""

    def __init__(self, instance: Instance, top: Path) -> None:
        self.instance = instance
        self.top = top

    def target(self, name: str, **options: Any) -> Target:
        """Return where a share is."""
        share = Share(name=name, path=str(self.top / name), **options)
        directory = self.instance.config.run_directory
        return locate(share, self.instance.providers, directory, thorough=True)

    def prepare(self, *names: str) -> dict[str, Prepared]:
        """Take images of shares, the first of which is asked for."""
        asked, *others = map(self.target, names)
        made = prepare(self.instance, asked, others, CLIENT, math.inf)
        found = {name: each for name, each in made.items() if isinstance(each, Prepared)}
        assert found.keys() == set(names)
        return found

    def serve(self, **maximum_copies: int) -> None:
        """Have shares in smb.conf, with so many copies as each may have."""
        shares = [
            Share(name=name, path=str(self.top / name), maximum_copies=most)
            for name, most in maximum_copies.items()
        ]
        sections = tuple(
            Section(name=each.name, path=each.path, registry=False, share=each, reason="")
            for each in shares
        )
        config = replace(self.instance.config, sections=sections)
        self.instance = replace(self.instance, config=config)

    async def commit(
        self, targets: Sequence[Target], begin: Callable[[], None]
    ) -> dict[str, ShadowCopy | RvssError]:
        """Have a set committed as Samba does it: every share is asked for, whatever fails.

        Args:
            targets: its shares, in order.
            begin: called when all were added.
        """
        signature: tuple[object, ...] = ()
        with ExitStack() as stack:
            samba = stack.enter_context(closing(SambaProcess()))
            present = Present(self.instance, self.instance.config.file, samba, signature)
            sets = Sets(present, Turns(), Tasks(), lambda: None)
            stack.callback(sets.end)
            for target in (*targets, *targets):
                sets.asked("worker", CLIENT, target)
            begin()
            found: dict[str, ShadowCopy | RvssError] = {}
            for target in targets:
                started = time.monotonic()
                try:
                    found[target.share.name] = await sets.create(
                        "worker", target, CLIENT, started, started + _SECONDS
                    )
                except RvssError as exc:
                    found[target.share.name] = exc
        return found

    def claim(self, prepared: Prepared) -> ShadowCopy:
        """Claim one."""
        return claim(self.instance, prepared, CLIENT, time.monotonic(), math.inf)

    def phase(self, prepared: Prepared) -> Phase:
        """Return how far one has come."""
        copy = self.instance.ledger.get(prepared.copy.id)
        assert copy is not None
        return copy.phase


@pytest.fixture
def place(tmp_path: Path, reachable: Path) -> Iterator[Place]:
    require("root", "btrfs")
    site_directory = tmp_path / "site"
    site_directory.mkdir()
    with ExitStack() as stack:
        fs = stack.enter_context(LoopBtrfs(reachable))
        for name in NAMES:
            (fs.subvolume(name) / "data").write_text(name)
        site = stack.enter_context(with_samba(site_directory))
        directory = site.config.run_directory
        run(["mount", "--bind", directory, directory], timeout=60)
        stack.callback(run, ["umount", "--recursive", "--lazy", directory], timeout=60)
        run(["mount", "--make-shared", directory], timeout=60)
        identity = Identity(id=secrets.token_hex(16), run_directory=directory)
        instance = replace(site.instance(), providers=(Btrfs(identity),), identity=identity)
        yield Place(instance, fs.path)


def test_all_are_claimed_or_discarded(place: Place) -> None:
    before = descriptors.count()
    made = place.prepare(*NAMES)
    copies = [place.claim(made["a"]), place.claim(made["b"])]
    discard(place.instance, made["c"], "nobody asked for it")
    assert place.phase(made["c"]) is Phase.GONE
    for copy in copies:
        assert copy.phase is Phase.TAKEN
        assert Path(copy.path, "data").read_text() == copy.share
        delete(place.instance, copy)
    assert descriptors.count() == before


@pytest.mark.parametrize("is_destroyed", [True, False])
def test_what_is_deleted_before_is_not_claimed(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, is_destroyed: bool
) -> None:
    made = place.prepare("a", "b")
    before = descriptors.count()

    if is_destroyed:
        delete(place.instance, made["b"].copy, 0)
    else:

        def busy(self: Btrfs, volume: Volume, image: str) -> None:
            raise RvssError(Problem.BUSY, "it is in use")

        with monkeypatch.context() as patch:
            patch.setattr(Btrfs, "destroy", busy)
            with pytest.raises(RvssError):
                delete(place.instance, made["b"].copy, 0)
    with pytest.raises(RvssError) as caught:
        place.claim(made["b"])
    assert caught.value.problem is Problem.BUSY
    assert place.phase(made["b"]) is Phase.GONE
    assert not Path(made["b"].copy.path).exists()
    assert descriptors.count() < before
    delete(place.instance, place.claim(made["a"]))


def test_a_claim_that_fails_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors.count()
    made = place.prepare("a")

    def failing(*_: object) -> ShadowCopy:
        raise RvssError(Problem.BUSY, "there is no directory for Previous Versions")

    monkeypatch.setattr(create, "_with_previous", failing)
    with pytest.raises(RvssError):
        place.claim(made["a"])
    assert place.phase(made["a"]) is Phase.GONE
    assert descriptors.count() == before


def test_one_more_than_there_may_be_is_not_claimed(place: Place) -> None:
    place.serve(a=1)
    first, second = place.prepare("a")["a"], place.prepare("a")["a"]
    copy = place.claim(first)
    with pytest.raises(RvssError) as caught:
        place.claim(second)
    assert caught.value.problem is Problem.LIMIT
    assert place.phase(second) is Phase.GONE
    delete(place.instance, copy)


@pytest.mark.parametrize("order", ["abc", "bac"])
def test_the_rest_of_a_set_that_fails_is_not_taken_one_by_one(place: Place, order: str) -> None:
    """Samba asks for it all the same (srv_fss_agent.c, _fss_CommitShadowCopySet())."""
    place.serve(a=1, b=0, c=0)
    targets = [
        replace(place.target(name), share=share)
        for name in order
        if (share := place.instance.config.share(name)) is not None
    ]
    others: list[ShadowCopy] = []

    def another() -> None:
        others.append(place.claim(place.prepare("a")["a"]))

    found = asyncio.run(place.commit(targets, another))
    refused = found.pop("a")
    assert isinstance(refused, RvssError)
    assert refused.problem is Problem.LIMIT
    events = [(event.share, event.what) for event in place.instance.ledger.events()]
    assert ("b", create.UNCLAIMED) not in events
    assert ("c", create.UNCLAIMED) not in events
    assert events.index(("c", "create")) < events.index(("b", "taken"))
    for copy in (*found.values(), *others):
        assert isinstance(copy, ShadowCopy)
        delete(place.instance, copy)
    assert not place.instance.ledger.copies()


def test_what_is_not_asked_for_is_not_taken_without_room(place: Place) -> None:
    full = place.target("b", minimum_free=1 << 60)
    made = prepare(place.instance, None, [full, place.target("c")], CLIENT, math.inf)
    (prepared,) = made.values()
    assert isinstance(prepared, Prepared)
    assert prepared.copy.share == "c"
    discard(place.instance, prepared, "nobody asked for it")


def test_what_was_to_be_thrown_away_costs_no_copy(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with monkeypatch.context() as patch:
        patch.setattr(together, "clear", failing)
        made = place.prepare(*NAMES)
    for each in made.values():
        delete(place.instance, place.claim(each))


@pytest.mark.parametrize("most", [2, 256])
@pytest.mark.parametrize("threads", [0, 1, 7])
def test_it_does_not_need_more_threads_than_there_are(
    place: Place, monkeypatch: pytest.MonkeyPatch, threads: int, most: int
) -> None:
    """Then they are not of one instant, but taken."""

    class Few(ThreadPoolExecutor):
        left = threads

        def submit(
            self, function: Callable[..., Any], /, *words: Any, **more: Any
        ) -> "Future[Any]":
            if not self.left:
                raise RuntimeError("can't start new thread")
            self.left -= 1
            return super().submit(function, *words, **more)

    monkeypatch.setattr(together, "ThreadPoolExecutor", Few)
    monkeypatch.setattr(together, "_MOST", most)
    made = place.prepare(*NAMES)
    for each in made.values():
        delete(place.instance, place.claim(each))

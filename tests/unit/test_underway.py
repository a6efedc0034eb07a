"""What is under way is named once it takes longer than it should, and until it ends."""

import asyncio
import time

from samba_rvss.daemon.underway import UnderWay


def test_what_takes_long_is_named() -> None:
    under_way, present = UnderWay(), time.monotonic()
    first = under_way.begin("the create callout of uid 7 has been under way", present - 45, 30.0)
    under_way.begin("another", present - 20, 30.0)
    second = under_way.begin("the oldest", present - 50, 30.0)
    oldest, line = under_way.late()
    assert oldest.startswith("the oldest for ")
    assert line.startswith("the create callout of uid 7 has been under way for 4")
    assert line.endswith(" s: see what its disks do")
    under_way.end(second)
    under_way.end(first)
    assert under_way.late() == ()


def test_what_is_late_already_is_named_until_it_is_done() -> None:
    async def story() -> None:
        under_way, task = UnderWay(), asyncio.get_running_loop().create_future()
        under_way.until_done(task, "an undoing", time.monotonic())
        assert len(under_way.late()) == 1
        task.set_exception(OSError())
        await asyncio.wait({task})
        await asyncio.sleep(0)
        assert under_way.late() == ()
        assert task.exception()
        with under_way.doing("a block", 0.0):
            assert len(under_way.late()) == 1
        assert under_way.late() == ()

    asyncio.run(story())

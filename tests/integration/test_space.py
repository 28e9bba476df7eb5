"""Room in memory is given in the order in which it is asked for, and what is given back is there again."""

import asyncio
import threading

import pytest

from mailagent.adapters.endings import whole
from mailagent.adapters.space import Space


async def have(space: Space, size: int, kept: int, go_on: asyncio.Event) -> int:
    async with space.take(size) as part:
        part.keep(kept)
        await go_on.wait()
    return size


async def test_who_needs_more_than_is_left_waits_and_those_behind_him_too() -> None:
    space, go_on = Space(10), [asyncio.Event() for _ in range(4)]
    asking = [asyncio.create_task(have(space, size, size, go_on[i])) for i, size in enumerate((6, 10, 1))]
    await asyncio.wait(asking, timeout=0)
    assert space.left == 4, "the small one does not pass the large one"
    go_on[0].set()
    assert await asking[0] == 6
    go_on[1].set()
    assert await asking[1] == 10
    go_on[2].set()
    assert await asking[2] == 1
    assert space.left == 10


async def test_what_is_not_needed_after_all_is_given_back_at_once() -> None:
    space, go_on = Space(10), asyncio.Event()
    first, second = (asyncio.create_task(have(space, 10, kept, go_on)) for kept in (3, 7))
    await asyncio.wait({first, second}, timeout=0)
    go_on.set()
    assert [await first, await second] == [10, 10]
    assert space.left == 10


async def test_who_no_longer_waits_is_in_nobodys_way() -> None:
    space, go_on = Space(10), asyncio.Event()
    first, second, third = (asyncio.create_task(have(space, size, size, go_on)) for size in (10, 5, 1))
    await asyncio.wait({first}, timeout=0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    assert [await first, await third] == [10, 1]
    assert space.left == 10


async def test_a_thread_has_its_room_until_it_ends_also_when_nobody_waits_for_it() -> None:
    space, begun, go_on = Space(10), asyncio.Event(), threading.Event()

    async def work() -> None:
        async with space.take(10):
            begun.set()
            await whole(asyncio.to_thread(go_on.wait))

    working = asyncio.create_task(work())
    await begun.wait()
    for _ in range(2):
        working.cancel()
        await asyncio.wait({working}, timeout=0.01)
        assert space.left == 0
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert space.left == 10

"""ports.Inbox: each promise held by the fake, by the adapter on the demo's server, and by the adapter on Dovecot."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from mailagent.core.errors import TemporaryError
from mailagent.ports import HEAD_BYTES, Folder
from tests.integration.dovecot import dovecot  # noqa: F401
from tests.mail_peers import DEADLINE, FOREVER, KINDS, Peer, follow, running


@pytest.fixture(params=KINDS)
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    """A mailbox whose handled mail stays where it is."""
    async with running(request.param, request, moves=False) as peer:
        yield peer


@pytest.fixture(params=[*KINDS, "old dovecot"])
async def moving(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    """A mailbox whose handled mail is moved."""
    async with running(request.param, request, moves=True) as peer:
        yield peer


NOW = 1_800_000_000.0


def day(number: int) -> datetime:
    """A day of some year."""
    return datetime(2025, 7, 1 + number, 12, tzinfo=UTC)


def message(number: int = 0) -> bytes:
    """A small mail that tells itself apart."""
    return b"From: customer@example.org\r\nSubject: %d\r\n\r\n.a line\r\n\xff\x80\xe9 %d\r\n" % (number, number)


async def test_open_says_which_mailbox_it_is_and_says_the_same_again(peer: Peer) -> None:
    first = await peer.inbox.open()
    assert first.account
    assert first.folder
    assert await peer.inbox.open() == first


async def test_nothing_works_before_open(peer: Peer) -> None:
    with pytest.raises(TemporaryError):
        await peer.inbox.uids_after(0)


async def test_uids_after_are_those_above_ascending(peer: Peer) -> None:
    await peer.inbox.open()
    assert await peer.inbox.uids_after(0) == []
    uids = [await peer.deliver(message(n)) for n in range(3)]
    assert await peer.inbox.uids_after(0) == uids
    assert await peer.inbox.uids_after(uids[0]) == uids[1:]
    assert await peer.inbox.uids_after(uids[-1]) == []
    assert await peer.inbox.uids_after(uids[-1] + 100) == []


async def test_fetch_gives_the_bytes_and_leaves_them_unread(peer: Peer) -> None:
    mailbox = await peer.inbox.open()
    uid = await peer.deliver(message())
    await peer.inbox.uids_after(0)
    [head] = await peer.inbox.heads([uid])
    assert (head.uid, head.size, head.data, head.is_whole) == (uid, len(message()), message(), True)
    [raw] = await peer.inbox.fetch([uid], now=12.5)
    assert (raw.data, raw.mailbox, raw.uid, raw.received_at) == (message(), mailbox, uid, 12.5)
    assert await peer.unread() == [uid]


async def test_what_is_gone_is_left_out(peer: Peer) -> None:
    await peer.inbox.open()
    uid = await peer.deliver(message(1))
    stays = await peer.deliver(message(2))
    assert await peer.inbox.uids_after(0) == [uid, stays]
    await peer.remove(uid)
    assert stays in [head.uid for head in await peer.inbox.heads([uid, stays])]
    assert await peer.inbox.uids_after(0) == [stays]
    assert [head.uid for head in await peer.inbox.heads([uid, stays])] == [stays]
    assert [raw.uid for raw in await peer.inbox.fetch([uid, stays], now=0)] == [stays]
    assert await peer.inbox.fetch([uid], now=0) == []


async def test_a_large_mail_is_told_by_its_beginning(peer: Peer) -> None:
    await peer.inbox.open()
    data = message() + (b"x" * 70 + b"\r\n") * 1000
    large, small = await peer.deliver(data), await peer.deliver(message())
    await peer.inbox.uids_after(0)
    first, second = await peer.inbox.heads([large, small])
    assert (first.size, first.data, first.is_whole) == (len(data), data[:HEAD_BYTES], False)
    assert second.is_whole
    assert [raw.data for raw in await peer.inbox.fetch([large, small], now=0)] == [data, message()]


async def test_many_fetches_at_once_do_not_mix(peer: Peer) -> None:
    await peer.inbox.open()
    uids = [await peer.deliver(message(n)) for n in range(6)]
    await peer.inbox.uids_after(0)
    found = await asyncio.gather(*(peer.inbox.fetch([uid], now=0) for uid in uids))
    assert [raw.data for [raw] in found] == [message(n) for n in range(6)]
    assert [raw.data for raw in await peer.inbox.fetch(uids, now=0)] == [message(n) for n in range(6)]


@pytest.mark.parametrize("start", ["new", "unseen", "all"])
async def test_first_cursor(peer: Peer, start: str) -> None:
    async def begins() -> tuple[int, float]:
        return await peer.inbox.first_cursor(start, NOW)

    await peer.inbox.open()
    ever = 0.0 if start == "all" else NOW
    assert await begins() == (0, ever)
    old, unread, newest = [await peer.deliver(message(n), day(n)) for n in range(3)]
    await peer.read(old)
    await peer.read(newest)
    await peer.inbox.open()
    assert await begins() == {"new": (newest, NOW), "unseen": (unread - 1, day(1).timestamp()), "all": (0, 0.0)}[start]
    await peer.read(unread)
    await peer.inbox.open()
    assert await begins() == (0 if start == "all" else newest, ever)


async def test_the_cursor_at_a_moment_is_below_what_arrived_since(peer: Peer) -> None:
    await peer.inbox.open()
    assert await peer.inbox.cursor_at(NOW) == 0
    east, west = (timezone(timedelta(hours=hours)) for hours in (14, -12))
    moment = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)
    for seconds in (40 * 86400, 1, 300):
        last = await peer.deliver(message(), (moment - timedelta(seconds=seconds)).astimezone(east))
    await peer.inbox.uids_after(0)
    assert await peer.inbox.cursor_at(moment.timestamp()) == last
    for at in (moment.astimezone(west), moment + timedelta(days=200)):
        await peer.deliver(message(), at)
    await peer.inbox.uids_after(0)
    assert await peer.inbox.cursor_at(moment.timestamp() + 0.9) == last
    assert await peer.inbox.cursor_at(moment.timestamp() + 1) == last + 1
    assert await peer.inbox.cursor_at(0.0) == 0


async def test_filed_mail_is_marked_and_stays_without_a_folder(peer: Peer) -> None:
    await peer.inbox.open()
    uids = [await peer.deliver(message(n)) for n in range(2)]
    assert await peer.inbox.uids_after(0) == uids
    await peer.inbox.file([uids[1]], "processed")
    assert await peer.filed("") == [message(1)]
    assert await peer.inbox.uids_after(0) == uids
    assert await peer.unread() == uids


@pytest.mark.parametrize("folder", ["processed", "refused", "held"])
async def test_filed_mail_is_moved_to_its_folder(moving: Peer, folder: Folder) -> None:
    await moving.inbox.open()
    uids = [await moving.deliver(message(n)) for n in range(3)]
    assert await moving.inbox.uids_after(0) == uids
    await moving.inbox.file(uids[:2], folder)
    assert await moving.filed(folder.capitalize()) == [message(0), message(1)]
    assert await moving.inbox.uids_after(0) == uids[2:]


async def test_filing_what_is_gone_is_no_error(moving: Peer) -> None:
    await moving.inbox.open()
    uid = await moving.deliver(message())
    await moving.inbox.uids_after(0)
    await moving.remove(uid)
    await moving.inbox.file([uid], "processed")
    assert await moving.inbox.uids_after(0) == []


async def test_changed_returns_at_news_each_time(peer: Peer) -> None:
    await peer.inbox.open()
    uid = 0
    async with asyncio.timeout(DEADLINE):
        for n in range(5):
            waiting = asyncio.ensure_future(follow(peer.inbox, uid))
            uid = await peer.deliver(message(n))
            assert await waiting == uid


async def test_changed_returns_after_the_timeout(peer: Peer) -> None:
    await peer.inbox.open()
    async with asyncio.timeout(DEADLINE):
        for _ in range(3):
            await peer.inbox.changed(0.05)


async def test_changed_can_be_cancelled_and_called_again(peer: Peer) -> None:
    await peer.inbox.open()
    await peer.inbox.changed(0.01)
    listening = asyncio.ensure_future(peer.inbox.changed(FOREVER))
    await peer.inbox.uids_after(0)
    listening.cancel()
    await asyncio.wait({listening}, timeout=DEADLINE)
    assert listening.cancelled()
    async with asyncio.timeout(DEADLINE):
        waiting = asyncio.ensure_future(follow(peer.inbox, 0))
        assert await peer.deliver(message()) == await waiting


async def test_work_goes_on_while_another_task_listens(peer: Peer) -> None:
    await peer.inbox.open()
    uid = await peer.deliver(message())
    await peer.inbox.uids_after(0)
    await peer.inbox.changed(0.01)
    listening = asyncio.ensure_future(peer.inbox.changed(FOREVER))
    async with asyncio.timeout(DEADLINE):
        for _ in range(10):
            assert await peer.inbox.fetch([uid], now=0)
        assert not listening.done()
        await peer.inbox.file([uid], "processed")
    listening.cancel()


async def test_a_new_uidvalidity_is_seen_and_nothing_is_read_under_the_old_one(peer: Peer) -> None:
    before = await peer.inbox.open()
    uid = await peer.deliver(message())
    await peer.inbox.uids_after(0)
    await peer.renumber()
    with contextlib.suppress(TemporaryError):  # or the server has not noticed yet
        assert await peer.inbox.fetch([uid], now=0) == []
    after = await peer.inbox.open()
    assert (after.account, after.folder) == (before.account, before.folder)
    assert after.uidvalidity > before.uidvalidity
    assert len(await peer.inbox.uids_after(0)) == 1


async def test_close_may_be_called_at_any_time(peer: Peer) -> None:
    await peer.inbox.close()
    await peer.inbox.open()
    await peer.inbox.changed(0.01)
    listening = asyncio.ensure_future(peer.inbox.changed(FOREVER))
    await peer.inbox.uids_after(0)
    async with asyncio.timeout(DEADLINE):
        await peer.inbox.close()
        await peer.inbox.close()
    listening.cancel()
    with pytest.raises(TemporaryError):
        await peer.inbox.uids_after(0)

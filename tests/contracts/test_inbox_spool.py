"""ports.Inbox on the spool: the promises of every mailbox, and those of a directory that was promised to keep mail."""

import asyncio
import io
import itertools
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import get_args

import pytest

from mailagent.adapters.spool import BLOCK, Spool, SpoolInbox, drop
from mailagent.core.errors import TemporaryError
from mailagent.ports import Folder
from tests.contracts.test_inbox import (
    message,
    test_a_large_mail_is_told_by_its_beginning,
    test_changed_can_be_cancelled_and_called_again,
    test_changed_returns_after_the_timeout,
    test_changed_returns_at_news_each_time,
    test_close_may_be_called_at_any_time,
    test_fetch_gives_the_bytes_and_leaves_them_unread,
    test_filing_what_is_gone_is_no_error,
    test_many_fetches_at_once_do_not_mix,
    test_nothing_works_before_open,
    test_open_says_which_mailbox_it_is_and_says_the_same_again,
    test_uids_after_are_those_above_ascending,
    test_what_is_gone_is_left_out,
    test_work_goes_on_while_another_task_listens,
)
from tests.mail_peers import DEADLINE, Peer

__all__ = [
    "test_a_large_mail_is_told_by_its_beginning",
    "test_changed_can_be_cancelled_and_called_again",
    "test_changed_returns_after_the_timeout",
    "test_changed_returns_at_news_each_time",
    "test_close_may_be_called_at_any_time",
    "test_fetch_gives_the_bytes_and_leaves_them_unread",
    "test_filing_what_is_gone_is_no_error",
    "test_many_fetches_at_once_do_not_mix",
    "test_nothing_works_before_open",
    "test_open_says_which_mailbox_it_is_and_says_the_same_again",
    "test_uids_after_are_those_above_ascending",
    "test_what_is_gone_is_left_out",
    "test_work_goes_on_while_another_task_listens",
]


class SpoolPeer:
    """A spool with its inbox; the levers are its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = Spool(directory)
        self.inbox = SpoolInbox(self.spool)

    async def deliver(self, data: bytes, at: datetime | None = None) -> int:
        del at
        return await self.spool.add(data[:7], io.BytesIO(data[7:]))

    async def remove(self, uid: int) -> None:
        (self.directory / "new" / str(uid)).unlink()

    async def read(self, uid: int) -> None:
        """Nobody reads here."""

    async def unread(self) -> list[int]:
        return self.spool.numbers()

    async def filed(self, folder: str) -> list[bytes]:
        paths = sorted((self.directory / folder.lower()).iterdir(), key=lambda path: int(path.name))
        return [path.read_bytes() for path in paths]

    async def renumber(self) -> None:
        raise NotImplementedError


@asynccontextmanager
async def a_peer(directory: Path) -> AsyncIterator[SpoolPeer]:
    peer = SpoolPeer(directory)
    yield peer
    await peer.inbox.close()


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with a_peer(tmp_path / "spool") as peer:
        yield peer


@pytest.fixture
async def moving(tmp_path: Path) -> AsyncIterator[Peer]:
    async with a_peer(tmp_path / "spool") as peer:
        yield peer


@pytest.mark.parametrize("start", ["new", "unseen", "all"])
async def test_whatever_was_accepted_is_taken_however_one_starts(tmp_path: Path, start: str) -> None:
    async with a_peer(tmp_path) as peer:
        await peer.deliver(message())
        await peer.inbox.open()
        assert await peer.inbox.first_cursor(start, 1.0) == (0, 0.0)


async def test_no_number_comes_twice_even_when_its_mail_is_gone(tmp_path: Path) -> None:
    given: list[int] = []
    for _ in range(3):
        async with a_peer(tmp_path) as peer:
            given += [await peer.deliver(message(n)) for n in range(3)]
            await peer.remove(given[-1])
            await peer.inbox.open()
            await peer.inbox.file([given[-2]], "refused")
    async with a_peer(tmp_path) as peer:
        given += [await peer.deliver(message())]
        peer.spool._next = peer.spool._set_aside  # the last of its block
        given += [await peer.deliver(message()) for _ in range(3)]
    assert given == sorted(set(given))


async def test_no_mail_appears_below_one_that_was_seen(tmp_path: Path) -> None:
    async with a_peer(tmp_path) as peer:
        await peer.inbox.open()
        adding = [asyncio.ensure_future(peer.deliver(message(n) * (1 + n % 7 * 300))) for n in range(100)]
        seen: list[int] = []
        while not all(one.done() for one in adding):
            new = await peer.inbox.uids_after(seen[-1] if seen else 0)
            seen += new
        seen += await peer.inbox.uids_after(seen[-1] if seen else 0)
        assert seen == sorted(one.result() for one in adding)


async def test_a_spool_made_anew_is_another_mailbox(tmp_path: Path) -> None:
    async with a_peer(tmp_path / "spool") as peer:
        before = await peer.inbox.open()
    async with a_peer(tmp_path / "spool") as peer:
        assert await peer.inbox.open() == before
    shutil.rmtree(tmp_path / "spool")
    async with a_peer(tmp_path / "spool") as peer:
        assert (await peer.inbox.open()).uidvalidity > before.uidvalidity


async def test_what_a_crash_left_half_written_is_swept_and_never_seen(tmp_path: Path) -> None:
    async with a_peer(tmp_path) as peer:
        uid = await peer.deliver(message())
        (tmp_path / "new" / ".half").write_bytes(b"Fro")
        assert peer.spool.numbers() == [uid]
    async with a_peer(tmp_path) as peer:
        assert os.listdir(tmp_path / "new") == [str(uid)]
        assert peer.spool.numbers() == [uid]


async def test_a_mail_that_cannot_be_kept_leaves_nothing(tmp_path: Path) -> None:
    async with a_peer(tmp_path) as peer:
        closed = (tmp_path / "uidvalidity").open("wb")
        with closed, pytest.raises(OSError, match="read"):
            await peer.spool.add(b"half", closed)
        assert os.listdir(tmp_path / "new") == []


async def test_adding_goes_on_when_who_asked_for_it_has_gone(tmp_path: Path) -> None:
    async with a_peer(tmp_path) as peer:
        await peer.inbox.open()
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as rest:
            adding = asyncio.ensure_future(peer.spool.add(b"all ", rest))
            await asyncio.sleep(0)
            adding.cancel()
            os.write(writing, b"of it")
            os.close(writing)
            await asyncio.wait({adding}, timeout=DEADLINE)
        assert adding.cancelled()
        async with asyncio.timeout(DEADLINE):
            await peer.inbox.changed(DEADLINE * 10)
        assert [peer.spool.read(number) for number in peer.spool.numbers()] == [b"all of it"]


async def test_what_was_handled_is_forgotten_and_what_waits_is_not(tmp_path: Path) -> None:
    async with a_peer(tmp_path) as peer:
        await peer.inbox.open()
        old, recent, waits = [await peer.deliver(message(n)) for n in range(3)]
        for uid in (old, waits):
            os.utime(tmp_path / "new" / str(uid), (1000, 1000))
        await peer.inbox.file([old], "refused")
        await peer.inbox.file([recent], "processed")
        (tmp_path / "processed" / "0").symlink_to("gone")  # as when a purge was quicker
        assert peer.spool.forget(1001.0) == 1
        (tmp_path / "processed" / "0").unlink()
        assert peer.spool.numbers() == [waits]
        assert [await peer.filed(folder) for folder in ("Processed", "Refused")] == [[message(1)], []]


@pytest.mark.parametrize("folder", get_args(Folder))
async def test_filed_mail_is_moved_and_comes_back_where_the_store_lost_its_job(tmp_path: Path, folder: Folder) -> None:
    async with a_peer(tmp_path) as peer:
        await peer.inbox.open()
        uids = [await peer.deliver(message(n)) for n in range(3)]
        await peer.inbox.file(uids[:2], folder)
        assert await peer.filed(folder) == [message(0), message(1)]
        assert await peer.inbox.uids_after(uids[1]) == uids[2:]
        assert await peer.inbox.uids_after(uids[0]) == uids[1:]
        assert [head.data for head in await peer.inbox.heads(uids)] == [message(n) for n in range(3)]
        assert [raw.data for raw in await peer.inbox.fetch(uids, now=0)] == [message(n) for n in range(3)]
        await peer.inbox.file([uids[1]], "processed")
        assert await peer.inbox.uids_after(uids[1]) == uids[2:]


async def test_where_the_store_knows_nothing_what_was_handled_is_not_handled_again(tmp_path: Path) -> None:
    async with a_peer(tmp_path) as peer:
        await peer.inbox.open()
        uids = [await peer.deliver(message(n)) for n in range(3)]
        await peer.inbox.file([uids[0]], "processed")
        await peer.inbox.file([uids[1]], "refused")
    async with a_peer(tmp_path) as peer:
        await peer.inbox.open()
        cursor, _ = await peer.inbox.first_cursor("all", 1.0)
        assert (cursor, await peer.inbox.cursor_at(1.0)) == (uids[1], uids[1])
        assert await peer.inbox.uids_after(cursor) == [uids[2]]


async def test_what_a_crash_kept_from_being_filed_is_forgotten_or_purged_all_the_same(tmp_path: Path) -> None:
    async with a_peer(tmp_path) as peer:
        uids = [await peer.deliver(message(n)) for n in range(3)]
        for uid in uids:
            os.utime(tmp_path / "new" / str(uid), (1000, 1000))
    async with a_peer(tmp_path) as peer:
        mailbox = await peer.inbox.open()
        assert await peer.inbox.uids_after(uids[1]) == [uids[2]]
        drop(tmp_path, mailbox, uids[0])
        assert peer.spool.numbers() == uids[1:]
        assert peer.spool.forget(1001.0) == 1
        assert peer.spool.numbers() == [uids[2]]


async def test_a_directory_that_is_gone_is_a_passing_fault(tmp_path: Path) -> None:
    async with a_peer(tmp_path / "spool") as peer:
        await peer.inbox.open()
        shutil.rmtree(tmp_path / "spool")
        with pytest.raises(TemporaryError):
            await peer.inbox.uids_after(0)
        with pytest.raises(OSError, match="No such file"):
            await peer.deliver(message())


def test_a_number_is_set_aside_before_it_is_given(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for given in itertools.islice(iter(spool._number, None), BLOCK + 2):
        assert int((tmp_path / "set-aside").read_text()) >= given

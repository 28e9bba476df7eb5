"""Mail on disk from the moment it is promised to its sender's server until intake has taken it over: ports.Inbox."""

import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar, get_args

from mailagent.adapters.blobs import write_durably
from mailagent.adapters.disk import sync
from mailagent.core.errors import TemporaryError
from mailagent.core.values import Mailbox, RawMessage
from mailagent.ports import HEAD_BYTES, Folder, Head

T = TypeVar("T")

PLACES = ("new", *get_args(Folder))
BLOCK = 1000
"""How many numbers are set aside at once: a number must never come twice, even when all the files are gone."""


class Spool:
    """A directory of messages: `new/NUMBER`, the handled ones in `processed/`, `refused/` and `held/`.

    One process at a time. OSError when the directory cannot be made or read."""

    def __init__(self, directory: Path) -> None:
        self.news = asyncio.Event()
        self._directory = directory
        self._new = directory / "new"
        for name in PLACES:
            (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._new.glob(".*"):  # a crash came before its sender's server was told anything
            left.unlink()
        self.uidvalidity = _kept(directory / "uidvalidity", time.time_ns() // 1000)
        self._set_aside = _kept(directory / "set-aside", 0)
        self._next = self._set_aside + 1
        self.taken = max((number for name in get_args(Folder) for number in _numbers(directory / name)), default=0)
        """The highest number that is known to be taken over."""
        self._naming = threading.Lock()

    def draft(self) -> BinaryIO:
        """A file without a name for a message that is still on its way."""
        return tempfile.TemporaryFile(dir=self._new)

    async def add(self, head: bytes, rest: BinaryIO) -> int:
        """Keep a message, `head` and then what is left to read in `rest`: it survives a power cut once this returns
        its number. OSError when it is not kept. What was begun is ended even when this is cancelled."""
        thread = asyncio.ensure_future(asyncio.to_thread(self._add, head, rest))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            await asyncio.gather(thread, return_exceptions=True)
            raise
        finally:
            self.news.set()

    def _add(self, head: bytes, rest: BinaryIO) -> int:
        descriptor, name = tempfile.mkstemp(dir=self._new, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(head)
                shutil.copyfileobj(rest, file, 1 << 18)
                file.flush()
                os.fsync(file.fileno())
            with self._naming:  # nobody may see a number before all below it: the cursor would pass them by
                number = self._number()
                Path(name).rename(self._new / str(number))
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        sync(self._new)
        return number

    def _number(self) -> int:
        if self._next > self._set_aside:
            write_durably(self._directory / "set-aside", str(self._next + BLOCK - 1).encode())
            self._set_aside = self._next + BLOCK - 1
        number, self._next = self._next, self._next + 1
        return number

    def numbers(self) -> list[int]:
        """The messages that were not handled yet, ascending."""
        return sorted(_numbers(self._new))

    def after(self, number: int) -> list[int]:
        """The messages above this one, the last that was taken over, ascending; also those that were handled, if the
        store has lost that, and their jobs with it."""
        places = ("new",) if number >= self.taken else PLACES
        self.taken = max(self.taken, number)
        return sorted(each for name in places for each in _numbers(self._directory / name) if each > number)

    def head(self, number: int) -> Head | None:
        """What is asked of the message first; None when it is gone."""
        for path in _paths(self._directory, number):
            with suppress(FileNotFoundError), path.open("rb") as file:
                return Head(number, os.fstat(file.fileno()).st_size, file.read(HEAD_BYTES))
        return None

    def read(self, number: int) -> bytes | None:
        """The message; None when it is gone."""
        for path in _paths(self._directory, number):
            with suppress(FileNotFoundError):
                return path.read_bytes()
        return None

    def file(self, numbers: Sequence[int], folder: Folder) -> None:
        """Put handled messages away; one that is gone is no error."""
        self.taken = max([self.taken, *numbers])
        for number in numbers:
            for path in _paths(self._directory, number):
                with suppress(FileNotFoundError):
                    path.rename(self._directory / folder / str(number))

    def forget(self, before: float) -> int:
        """Remove what came before this moment (Unix seconds) and was taken over, whether or not a crash kept it from
        being filed; returns how many."""
        removed = 0
        left = [self._new / str(number) for number in self.numbers() if number <= self.taken]
        for path in left + [path for folder in get_args(Folder) for path in (self._directory / folder).iterdir()]:
            with suppress(FileNotFoundError):  # a purge removes them, too
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
        return removed


def drop(directory: Path, mailbox: Mailbox, number: int) -> None:
    """Remove a message of this mailbox that was taken over, if it is in the spool in this directory."""
    try:
        ours = (directory / "uidvalidity").read_text() == str(mailbox.uidvalidity)
    except FileNotFoundError:
        return
    for path in _paths(directory, number) if ours else ():
        path.unlink(missing_ok=True)


class SpoolInbox:
    """ports.Inbox: the numbers of the spool are the UIDs."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._mailbox = Mailbox("lmtp", "spool", spool.uidvalidity)
        self._is_open = False

    async def open(self) -> Mailbox:
        """See ports.Inbox."""
        self._is_open = True
        return self._mailbox

    async def first_cursor(self, start: str, now: float) -> tuple[int, float]:  # noqa: ARG002
        """The highest number that was taken over, for every `start`: all above it was accepted for us and waits."""
        return self._spool.taken, 0.0

    async def cursor_at(self, moment: float) -> int:  # noqa: ARG002
        """The same, for every `moment`."""
        return self._spool.taken

    async def uids_after(self, uid: int) -> list[int]:
        """See ports.Inbox."""
        return await self._in_thread(lambda: self._spool.after(uid))

    async def heads(self, uids: Sequence[int]) -> list[Head]:
        """See ports.Inbox."""
        heads = await self._in_thread(lambda: [self._spool.head(uid) for uid in uids])
        return [head for head in heads if head]

    async def fetch(self, uids: Sequence[int], *, now: float) -> list[RawMessage]:
        """See ports.Inbox."""
        found = await self._in_thread(lambda: [(uid, self._spool.read(uid)) for uid in uids])
        return [RawMessage(data, self._mailbox, uid, now) for uid, data in found if data is not None]

    async def file(self, uids: Sequence[int], folder: Folder) -> None:
        """See ports.Inbox: moved to the spool's directory of that name."""
        await self._in_thread(lambda: self._spool.file(uids, folder))

    async def changed(self, timeout: float) -> None:
        """See ports.Inbox: at once when a message was kept."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._spool.news.wait(), timeout)
        self._spool.news.clear()

    async def close(self) -> None:
        """See ports.Inbox."""
        self._is_open = False

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if not self._is_open:
            raise TemporaryError("the spool is not open")
        try:
            return await asyncio.to_thread(call)
        except OSError as error:
            raise TemporaryError(f"spool: {error.strerror}") from error


def _numbers(directory: Path) -> list[int]:
    return [int(name) for name in os.listdir(directory) if name.isdecimal()]  # noqa: PTH208 - no stat


def _paths(directory: Path, number: int) -> list[Path]:
    """Where a message may be."""
    return [directory / name / str(number) for name in PLACES]


def _kept(path: Path, first: int) -> int:
    """The number in this file, which is made with `first` in it."""
    if not path.exists():
        write_durably(path, str(first).encode())
    return int(path.read_text())

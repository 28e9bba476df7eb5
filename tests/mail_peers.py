"""Mailboxes to hold ports.Inbox to its promises: each with the inbox under test and with levers of its own."""

import asyncio
import imaplib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Protocol, TypeVar

import pytest

from mailagent.adapters.imap import DONE, ImapInbox
from mailagent.config import Imap, Mail
from mailagent.demo.mailserver import MailServer
from mailagent.ports import Inbox
from tests.fakes.mail import FakeInbox
from tests.integration.dovecot import HOST, OLD_HOST, PASSWORD, Dovecot

T = TypeVar("T")
FOLDER = "Requests"
LIMIT_MB = 0.1
DEADLINE = 20.0
FOREVER = 600.0
"""Longer than the deadline: who waits so long has not been told."""
KINDS = ["fake", "mailserver", "dovecot"]
"""Besides these there is "old dovecot"."""


class Peer(Protocol):
    """A mailbox under test, with the inbox that is held to its promises."""

    @property
    def inbox(self) -> Inbox: ...

    async def deliver(self, data: bytes, at: datetime | None = None) -> int:
        """A mail arrives, now or then."""

    async def remove(self, uid: int) -> None: ...

    async def read(self, uid: int) -> None:
        """A person opens the mail."""

    async def unread(self) -> list[int]: ...

    async def filed(self, folder: str) -> list[bytes]:
        """What lies in a folder for handled mail, or, for "", the mails here that are marked as handled."""

    async def renumber(self) -> None: ...


class FakePeer:
    """The fake, and its own levers."""

    def __init__(self, *, moves: bool) -> None:
        self.inbox = FakeInbox(moves=moves)
        self._all: dict[int, bytes] = {}

    async def deliver(self, data: bytes, at: datetime | None = None) -> int:
        uid = self.inbox.deliver(data, at.timestamp() if at else None)
        self._all[uid] = data
        return uid

    async def remove(self, uid: int) -> None:
        del self.inbox.mails[uid]

    async def read(self, uid: int) -> None:
        self.inbox.seen.add(uid)

    async def unread(self) -> list[int]:
        return sorted(self.inbox.mails.keys() - self.inbox.seen)

    async def filed(self, folder: str) -> list[bytes]:
        return [self._all[uid] for uid, where in self.inbox.filed.items() if not folder or where == folder.lower()]

    async def renumber(self) -> None:
        self.inbox.renumber()


class ServerPeer:
    """The adapter on a real server; the levers are another client, the standard library's, on its `plain_port`."""

    def __init__(self, imap: Imap, mail: Mail, plain_port: int = 0) -> None:
        self.inbox = ImapInbox(imap, mail, PASSWORD)
        self._plain = imap_settings(plain_port or imap.port, user=imap.user)

    async def create(self) -> None:
        await as_other_client(self._plain, lambda client: client.create(FOLDER))

    async def deliver(self, data: bytes, at: datetime | None = None) -> int:
        when = imaplib.Time2Internaldate(at) if at else None
        _, answer = await as_other_client(self._plain, lambda client: client.append(FOLDER, None, when, data))
        return int(answer[0].split(b"]")[0].split()[-1])

    async def remove(self, uid: int) -> None:
        await self.flag(uid, r"\Deleted")
        await self._in_folder(lambda client: client.expunge())

    async def flag(self, uid: int, flag: str) -> None:
        await self._in_folder(lambda client: client.uid("STORE", str(uid), "+FLAGS", f"({flag})"))

    async def read(self, uid: int) -> None:
        await self.flag(uid, r"\Seen")

    async def unread(self) -> list[int]:
        _, found = await self._in_folder(lambda client: client.uid("SEARCH", "UNSEEN"))
        return [int(uid) for uid in found[0].split()]

    async def filed(self, folder: str) -> list[bytes]:
        return await self._in_folder(_done, folder or FOLDER)

    async def renumber(self) -> None:
        """Delete and create the folder anew, with the same mails in it."""

        def act(client: imaplib.IMAP4) -> None:
            mails = contents(client, FOLDER)
            client.unselect()
            client.delete(FOLDER)
            client.create(FOLDER)
            for data in mails:
                client.append(FOLDER, None, None, data)

        await as_other_client(self._plain, act)

    async def _in_folder(self, act: Callable[[imaplib.IMAP4], T], folder: str = FOLDER) -> T:
        def run(client: imaplib.IMAP4) -> T:
            client.select(folder)
            return act(client)

        return await as_other_client(self._plain, run)


def _done(client: imaplib.IMAP4) -> list[bytes]:
    _, found = client.uid("SEARCH", "KEYWORD", DONE)
    return [data for uid in found[0].split() for data in bodies(client.uid("FETCH", uid.decode(), "(BODY.PEEK[])")[1])]


def imap_settings(port: int, **more: object) -> Imap:
    """Plain text on loopback unless told otherwise."""
    return Imap.model_validate({"host": HOST, "port": port, "security": "none", "user": "agent@mail.test"} | more)


def mail_settings(*, moves: bool) -> Mail:
    """The folder under test; handled mail goes to folders that are not there yet."""
    folders = {f"{name.lower()}_folder": name for name in ("Processed", "Refused", "Held")} if moves else {}
    return Mail.model_validate({"address": "agent@mail.test", "folder": FOLDER, "max_message_mb": LIMIT_MB} | folders)


@asynccontextmanager
async def running(kind: str, request: pytest.FixtureRequest, *, moves: bool) -> AsyncIterator[Peer]:
    """A mailbox of this kind."""
    if kind == "fake":
        yield FakePeer(moves=moves)
        return
    async with MailServer({"agent@mail.test": PASSWORD}) as server:
        imap = imap_settings(server.imap_port)
        if kind != "mailserver":
            dovecot: Dovecot = request.getfixturevalue("dovecot")
            host = HOST if kind == "dovecot" else OLD_HOST
            imap = imap_settings(dovecot.imap_port, user=dovecot.user(), host=host)
        peer = ServerPeer(imap, mail_settings(moves=moves))
        await peer.create()
        yield peer
        await peer.inbox.close()


async def as_other_client(imap: Imap, act: Callable[[imaplib.IMAP4], T]) -> T:
    """What the standard library's client sees or does, logged in to this account in plain text."""

    def run() -> T:
        with imaplib.IMAP4(imap.host, imap.port, timeout=DEADLINE) as client:
            client.login(imap.user, PASSWORD)
            return act(client)

    return await asyncio.to_thread(run)


def contents(client: imaplib.IMAP4, folder: str) -> list[bytes]:
    """The messages in a folder; none when it is not there."""
    known, count = client.select(folder, readonly=True)
    if known != "OK" or count == [b"0"]:
        return []
    return bodies(client.fetch("1:*", "(BODY.PEEK[])")[1])


def bodies(fetched: list[Any]) -> list[bytes]:
    """The literals in what imaplib returns for FETCH."""
    return [part[1] for part in fetched if isinstance(part, tuple)]


async def follow(inbox: Inbox, uid: int, *, poll: float = FOREVER) -> int:
    """The next UID, as the flow waits for it."""
    while not (uids := await inbox.uids_after(uid)):
        await inbox.changed(poll)
    return uids[0]

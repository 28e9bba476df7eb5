"""Mailboxes to hold ports.Inbox to its promises: each with the inbox under test and with levers of its own."""

import asyncio
import imaplib
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

import pytest

from mailagent.adapters.imap import DONE, ImapInbox
from mailagent.config import Imap, Mail
from mailagent.demo.mailserver import MailServer
from mailagent.ports import Inbox
from tests.fakes_mail import FakeInbox
from tests.integration.dovecot import PASSWORD, Dovecot

T = TypeVar("T")
FOLDER = "Requests"
LIMIT_MB = 0.1
DEADLINE = 20.0
KINDS = ["fake", "mailserver", "dovecot"]


class Peer(Protocol):
    """A mailbox under test, with the inbox that is held to its promises."""

    inbox: Inbox

    @abstractmethod
    async def deliver(self, data: bytes) -> int: ...

    @abstractmethod
    async def remove(self, uid: int) -> None: ...

    @abstractmethod
    async def read(self, uid: int) -> None:
        """A person opens the mail."""

    @abstractmethod
    async def unread(self) -> list[int]: ...

    @abstractmethod
    async def filed(self, folder: str) -> list[bytes]:
        """What lies in a folder for handled mail, or, for "", the mails here that are marked as handled."""

    @abstractmethod
    async def renumber(self) -> None: ...


class FakePeer:
    """The fake, and its own levers."""

    def __init__(self, *, moves: bool) -> None:
        self.inbox = FakeInbox(LIMIT_MB, moves=moves)
        self._all: dict[int, bytes] = {}

    async def deliver(self, data: bytes) -> int:
        uid = self.inbox.deliver(data)
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
    """The adapter on a real server; the levers are another client, the standard library's."""

    def __init__(self, imap: Imap, mail: Mail, password: str) -> None:
        self.inbox = ImapInbox(imap, mail, password)
        self._imap = imap
        self._password = password

    @contextmanager
    def _client(self) -> Iterator[imaplib.IMAP4]:
        with imaplib.IMAP4(self._imap.host, self._imap.port, timeout=DEADLINE) as client:
            client.login(self._imap.user, self._password)
            yield client

    async def _with(self, act: Callable[[imaplib.IMAP4], T], folder: str = FOLDER) -> T:
        def run() -> T:
            with self._client() as client:
                if folder:
                    client.select(folder)
                return act(client)

        return await asyncio.to_thread(run)

    async def create(self) -> None:
        await self._with(lambda client: client.create(FOLDER), "")

    async def deliver(self, data: bytes) -> int:
        _, answer = await self._with(lambda client: client.append(FOLDER, None, None, data), "")  # type: ignore[arg-type]
        return int(answer[0].split(b"]")[0].split()[-1])

    async def remove(self, uid: int) -> None:
        def act(client: imaplib.IMAP4) -> None:
            client.uid("STORE", str(uid), "+FLAGS", r"(\Deleted)")
            client.expunge()

        await self._with(act)

    async def read(self, uid: int) -> None:
        await self._with(lambda client: client.uid("STORE", str(uid), "+FLAGS", r"(\Seen)"))

    async def unread(self) -> list[int]:
        _, found = await self._with(lambda client: client.uid("SEARCH", "UNSEEN"))
        return [int(uid) for uid in found[0].split()]

    async def filed(self, folder: str) -> list[bytes]:
        def act(client: imaplib.IMAP4) -> list[bytes]:
            _, found = client.uid("SEARCH", "KEYWORD", DONE)
            fetched = [client.uid("FETCH", uid.decode(), "(BODY.PEEK[])")[1][0] for uid in found[0].split()]
            return [part[1] for part in fetched if isinstance(part, tuple)]

        return await self._with(act, folder or FOLDER)

    async def renumber(self) -> None:
        """Delete and create the folder anew, with the same mails in it."""

        def act(client: imaplib.IMAP4) -> None:
            _, found = client.fetch("1:*", "(BODY.PEEK[])")
            client.unselect()
            client.delete(FOLDER)
            client.create(FOLDER)
            for part in found:
                if isinstance(part, tuple):
                    client.append(FOLDER, None, None, part[1])  # type: ignore[arg-type]

        await self._with(act)


def imap_settings(port: int, user: str = "agent@mail.test", **more: object) -> Imap:
    """Plain text on loopback unless told otherwise."""
    return Imap.model_validate({"host": "127.0.0.1", "port": port, "security": "none", "user": user} | more)


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
        if kind == "dovecot":
            dovecot: Dovecot = request.getfixturevalue("dovecot")
            imap = imap_settings(dovecot.imap_port, dovecot.user())
        peer = ServerPeer(imap, mail_settings(moves=moves), PASSWORD)
        await peer.create()
        yield peer
        await peer.inbox.close()

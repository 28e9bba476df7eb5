"""A mail server on loopback, in this process and in memory: IMAP and SMTP, so that a newcomer needs no account."""

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from mailagent.demo.imapserver import Session
from mailagent.demo.mailstore import Account, Faults
from mailagent.demo.smtpserver import Connection, Receiver

HOST = "127.0.0.1"
MAX_LINE = 2**20


class MailServer:
    """Mailboxes for `accounts` (address -> password) on two free ports of loopback.

    Each mail is stamped as by a receiving server called `authserv_id`; dmarc=pass for whom a password proved. What is
    in the mailboxes outlives stop(), and a second start() takes the same ports again. If it `keeps_sent`, it puts what
    an account sends into its Sent folder, as Gmail does. `faults` is for tests.
    """

    def __init__(
        self, accounts: Mapping[str, str], authserv_id: str = "mail.test", *, keeps_sent: bool = False
    ) -> None:
        self.imap_port = 0
        self.smtp_port = 0
        self.faults = Faults()
        self._accounts = {address.lower(): Account(password) for address, password in accounts.items()}
        self._receiver = Receiver(self._accounts, self.faults, authserv_id, keeps_sent)
        self._hostname = authserv_id
        self._servers: list[asyncio.Server] = []
        self._sessions: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._connections: set[Connection] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; `imap_port` and `smtp_port` say where."""
        # aiosmtpd logs a warning about its own internals at each login.
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        imap = await asyncio.start_server(self._serve_imap, HOST, self.imap_port, limit=MAX_LINE)
        self.imap_port = _port(imap)
        smtp = await asyncio.get_running_loop().create_server(self._serve_smtp, HOST, self.smtp_port)
        self.smtp_port = _port(smtp)
        self._servers = [imap, smtp]

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        for server in self._servers:
            server.close()
        for writer in self._sessions.values():
            writer.transport.abort()
        for connection in self._connections:
            connection.cut()
        await asyncio.gather(*self._sessions, *(connection.over for connection in self._connections))
        for server in self._servers:
            await server.wait_closed()
        self._servers = []

    def messages(self, address: str, folder: str = "INBOX") -> list[bytes]:
        """The mails in this folder, oldest first; none when there is no such folder."""
        found = self._accounts[address].folders.get(folder)
        return [mail.data for mail in found.mails] if found else []

    def renumber(self, address: str, folder: str = "INBOX") -> None:
        """A fault, for tests: the folder's UIDVALIDITY changes, and who has it open is told to go."""
        self._accounts[address].folders[folder].renumber()

    def _serve_imap(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.create_task(Session(self._accounts, self.faults, reader, writer).serve())
        self._sessions[session] = writer
        session.add_done_callback(self._sessions.pop)

    def _serve_smtp(self) -> Connection:
        connection = Connection(self._receiver, self._hostname)
        self._connections.add(connection)
        connection.over.add_done_callback(lambda _: self._connections.discard(connection))
        return connection


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port

"""The mailbox by IMAP4rev1 (RFC 3501): imapclient, in threads, with its sharp edges covered."""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError

from mailagent.adapters.oauth import access_token, xoauth2
from mailagent.config import Imap, Mail, Security
from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.core.values import Mailbox, RawMessage
from mailagent.ports import HEAD_BYTES, Folder, Head

T = TypeVar("T")

DONE = "$MailAgentDone"
"""The keyword of a handled message."""

_ODD = (IMAPClientError, OSError, ValueError, LookupError)
"""What imapclient raises when a server is away, says no, or says what cannot be understood."""

_GOODBYE_SECONDS = 5.0
_AT_ONCE = 500
"""Of how many messages the time is asked for in one command."""


class ImapInbox:
    """ports.Inbox: one connection for work, one that listens."""

    def __init__(self, imap: Imap, mail: Mail, password: str) -> None:
        tls = tls_context(imap.security, imap.ca_file)
        self._account = f"{imap.user}@{imap.host}"
        self._mail = mail
        self._work = _Connection(imap, tls, password)
        self._ears = _Connection(imap, tls, password)
        self._deaf = 0
        """How often in a row listening failed."""
        self._mailbox = Mailbox(self._account, mail.folder, 0)
        self._keeps_keywords = False

    async def open(self) -> Mailbox:
        """See ports.Inbox."""
        await self._ears.close(politely=False)
        await self._work.open()
        self._mailbox, flags = await self._work.run(self._select)
        self._keeps_keywords = bool({flag.lower() for flag in flags} & {rb"\*", DONE.lower().encode()})
        return self._mailbox

    def _select(self, client: IMAPClient) -> tuple[Mailbox, tuple[bytes, ...]]:
        selected = client.select_folder(self._mail.folder)
        mailbox = Mailbox(self._account, self._mail.folder, selected[b"UIDVALIDITY"])
        return mailbox, selected.get(b"PERMANENTFLAGS", ())

    async def first_cursor(self, start: str, now: float) -> tuple[int, float]:
        """See ports.Inbox."""
        if start == "all":
            return 0, 0.0
        unread = await self._work.run(lambda client: client.search("UNSEEN")) if start == "unseen" else []
        if not unread:
            return await self._work.run(_highest), now
        oldest = min(unread)
        return oldest - 1, (await self._work.run(lambda client: _arrivals(client, [oldest])))[oldest]

    async def cursor_at(self, moment: float) -> int:
        """See ports.Inbox."""
        return await self._work.run(lambda client: _below(client, moment))

    async def uids_after(self, uid: int) -> list[int]:
        """See ports.Inbox."""
        found = await self._work.run(lambda client: _uids_from(client, uid + 1))
        return sorted(n for n in found if n > uid)  # "n:*" names the last message even when it lies below n

    async def heads(self, uids: Sequence[int]) -> list[Head]:
        """See ports.Inbox."""
        return await self._work.run(lambda client: _heads(client, uids))

    async def fetch(self, uids: Sequence[int], *, now: float) -> list[RawMessage]:
        """See ports.Inbox."""
        bodies = await self._work.run(lambda client: _bodies(client, uids))
        return [RawMessage(data, self._mailbox, uid, now) for uid, data in bodies]

    async def file(self, uids: Sequence[int], folder: Folder) -> None:
        """See ports.Inbox."""
        target = {
            "processed": self._mail.processed_folder,
            "refused": self._mail.refused_folder,
            "held": self._mail.held_folder,
        }[folder]
        await self._work.run(lambda client: self._file(client, list(uids), target))

    def _file(self, client: IMAPClient, uids: list[int], target: str) -> None:
        if self._keeps_keywords:
            client.add_flags(uids, [DONE], silent=True)
        if target and target != self._mail.folder:
            _move(client, uids, target)

    async def changed(self, timeout: float) -> None:
        """See ports.Inbox. Whatever goes wrong here may have hidden news and counts as news; listening is tried again
        later, after a growing pause, so that a server without IDLE is polled at last every `timeout`."""
        try:
            if self._ears.is_open:
                await self._ears.run(lambda client: _idle(client, timeout))
                self._deaf = 0
                return
            if self._deaf:
                await asyncio.sleep(min(timeout, 2.0 ** min(self._deaf - 1, 10)))
            await self._ears.open()
            # What came before this SELECT is not announced: the caller looks once more, then listens.
            await self._ears.run(lambda client: client.select_folder(self._mail.folder, readonly=True))
        except TemporaryError:
            self._deaf += 1

    async def close(self) -> None:
        """See ports.Inbox."""
        await asyncio.gather(self._ears.close(politely=True), self._work.close(politely=True))


class _Connection:
    """One connection, for one thread at a time; whatever is odd about it ends it, and only open() begins a new one."""

    def __init__(self, imap: Imap, tls: ssl.SSLContext | None, password: str) -> None:
        self._imap = imap
        self._tls = tls
        self._password = password
        self._client: IMAPClient | None = None
        self._lock = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._client is not None

    async def open(self) -> None:
        """Connect and log in, in place of the connection there was. Raises TemporaryError."""
        async with self._lock:
            self._drop()
            await self._in_thread(self._connect)

    async def run(self, act: Callable[[IMAPClient], T]) -> T:
        """What `act` returns. Raises TemporaryError."""
        async with self._lock:
            client = self._client
            if client is None:
                raise TemporaryError(f"{self._imap.host}: the connection is lost")
            return await self._in_thread(lambda: act(client))

    async def close(self, *, politely: bool) -> None:
        """End the connection, with a LOGOUT if `politely`; cuts off what is under way; never raises."""
        if self._lock.locked():
            self._cut()
        async with self._lock:
            client = self._client
            if client is not None and politely:
                with suppress(TemporaryError):
                    await self._in_thread(lambda: _log_out(client))
            self._drop()

    def _connect(self) -> None:
        self._client = connect(self._imap, self._tls, self._password)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        thread = asyncio.ensure_future(asyncio.to_thread(call))
        try:
            return await asyncio.shield(thread)
        except _ODD as error:
            self._drop()
            raise TemporaryError(in_words(error, self._imap.host)) from error
        except TemporaryError:
            self._drop()
            raise
        except asyncio.CancelledError:
            # The thread still has the connection: nobody else may until it is done.
            self._cut()
            await asyncio.gather(thread, return_exceptions=True)
            self._drop()
            raise

    def _cut(self) -> None:
        """Wake the thread that waits for the server; closing is left to _drop()."""
        if self._client is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown, which forgets the TLS state that the thread is using.
                socket.socket.shutdown(self._client.socket(), socket.SHUT_RDWR)

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            _hang_up(client)


def connect(imap: Imap, tls: ssl.SSLContext | None, password: str) -> IMAPClient:
    """A connection, logged in; blocks. Raises what imapclient raises, TemporaryError when no access token is had."""
    # Before the connection: servers do not wait for long.
    token = access_token(imap.token_command, imap.timeout_seconds) if imap.auth == "xoauth2" else ""
    client = IMAPClient(imap.host, imap.port, ssl=imap.security == "tls", ssl_context=tls, timeout=imap.timeout_seconds)
    client.normalise_times = False  # or all times are told as if they were of this season
    with ExitStack() as undo:
        undo.callback(_hang_up, client)
        # Without TCP_NODELAY a literal, or the command after DONE, waits 40 ms for the other side's acknowledgement.
        client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.socket().setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if imap.security == "starttls":
            client.starttls(tls)
        if imap.auth == "xoauth2":
            client.sasl_login("XOAUTH2", xoauth2(imap.user, token))
        else:
            client.login(imap.user, password)
        # Asked for now, since imapclient would ask between our last look and IDLE: the news that a server sends along
        # with that answer (RFC 3501 section 7) it does not send again.
        client.capabilities()
        undo.pop_all()
    return client


def tls_context(security: Security, ca_file: str) -> ssl.SSLContext | None:
    """How a server's certificate is verified; None for security "none". Raises ConfigError when ca_file is no good."""
    if security == "none":
        return None
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ConfigError(f"ca_file {ca_file} cannot be used: {error.strerror or error}") from error


def in_words(error: Exception, host: str) -> str:
    """Why a mail server cannot be worked with, for the operator; no password is in it."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"{host}: the certificate cannot be trusted: {error.verify_message}"
        case TimeoutError():
            return f"{host}: no answer in time"
        case socket.gaierror():
            return f"{host}: this name is not known"
        case ssl.SSLError():
            return f"{host}: TLS fails: {error.reason}"
        case LookupError():
            return f"{host}: the answer lacks {error}"
        case UnicodeEncodeError():
            return f"{host}: name, password and addresses must be ASCII"  # str(error) shows a letter of the password
        case _:
            answer = re.sub(r"^b'(.*)'$", r"\1", str(error))  # imaplib puts the server's answer as a repr
            return f"{host}: {answer}"


@contextmanager
def session(imap: Imap, tls: ssl.SSLContext | None, password: str) -> Iterator[IMAPClient]:
    """A connection for one errand, logged in and out again; blocks. TemporaryError for whatever is odd within."""
    try:
        client = connect(imap, tls, password)
        with ExitStack() as undo:
            undo.callback(_hang_up, client)
            yield client
            with suppress(*_ODD):
                _log_out(client)
    except _ODD as error:
        raise TemporaryError(in_words(error, imap.host)) from error


def _uids_from(client: IMAPClient, uid: int) -> list[int]:
    client.noop()  # a server may tell of new messages only after a command (RFC 3501 section 5.2)
    return list(client.search(["UID", f"{uid}:*"]))


def _highest(client: IMAPClient) -> int:
    return max(client.search(["UID", "*"]), default=0)


def _below(client: IMAPClient, moment: float) -> int:
    """The UID below the first message that arrived at this moment or later; the highest when there is none."""
    day = datetime.fromtimestamp(max(0.0, moment - 86400), UTC).date()  # a server compares days, of any time zone
    uids = sorted(client.search(["SINCE", day]))
    for start in range(0, len(uids), _AT_ONCE):
        arrived = _arrivals(client, uids[start : start + _AT_ONCE])
        if found := [uid for uid, at in arrived.items() if at >= int(moment)]:
            return min(found) - 1
    return _highest(client)


def _arrivals(client: IMAPClient, uids: Sequence[int]) -> dict[int, float]:
    """When these messages arrived, in whole seconds; what is gone is left out."""
    answers = client.fetch(uids, ["INTERNALDATE"])
    return {uid: answers[uid][b"INTERNALDATE"].timestamp() for uid in uids if uid in answers}


def _heads(client: IMAPClient, uids: Sequence[int]) -> list[Head]:
    found = _fetched(client, uids, ["RFC822.SIZE", f"BODY.PEEK[]<0.{HEAD_BYTES}>"], b"BODY[]<0>")
    if not all(isinstance(answer.get(b"RFC822.SIZE"), int) for answer in found.values()):
        raise TemporaryError("the server gives no size for a message")
    return [Head(uid, answer[b"RFC822.SIZE"], answer[b"BODY[]<0>"]) for uid, answer in found.items()]


def _bodies(client: IMAPClient, uids: Sequence[int]) -> list[tuple[int, bytes]]:
    found = _fetched(client, uids, ["BODY.PEEK[]"], b"BODY[]")
    return [(uid, answer[b"BODY[]"]) for uid, answer in found.items()]


def _fetched(client: IMAPClient, uids: Sequence[int], what: list[str], name: bytes) -> dict[int, dict[bytes, Any]]:
    """The answers that bring `name`, in the order of `uids`. One that brings none is about a message that is gone,
    which the server may tell only later; if not, TemporaryError."""
    answers = client.fetch(uids, what)
    found = {uid: answers[uid] for uid in uids if uid in answers}
    odd = [uid for uid in found if not isinstance(found[uid].get(name), bytes)]
    if odd:
        client.noop()
        if left := client.search(["UID", ",".join(map(str, odd))]):
            raise TemporaryError(f"the server gives no text of message {left[0]} now")
    return {uid: answer for uid, answer in found.items() if uid not in odd}


def _move(client: IMAPClient, uids: list[int], folder: str) -> None:
    if not client.folder_exists(folder):
        client.create_folder(folder)
    if client.has_capability("MOVE"):
        client.move(uids, folder)
        return
    client.copy(uids, folder)
    client.delete_messages(uids, silent=True)
    if client.has_capability("UIDPLUS"):  # a plain EXPUNGE would take what others have deleted as well
        client.uid_expunge(uids)


def _idle(client: IMAPClient, timeout: float) -> None:
    """Return at news or after the timeout. When the server has gone, idle_check() returns nothing, or a BYE as if that
    were news, at once and for ever; it is idle_done() that fails then."""
    client.idle()
    if not _has_read_ahead(client):
        client.idle_check(timeout)
    client.idle_done()


def _has_read_ahead(client: IMAPClient) -> bool:
    """Whether news came in one packet with the answer to IDLE: idle_check() waits for the socket, and they have left it
    for imaplib's buffer, to which imapclient has no other way."""
    connection = client.socket()
    waits = connection.gettimeout()
    connection.settimeout(0)
    try:
        return bool(client._imap.file.peek(1))
    except ssl.SSLWantReadError:
        return False
    finally:
        connection.settimeout(waits)


def _log_out(client: IMAPClient) -> None:
    client.socket().settimeout(_GOODBYE_SECONDS)
    client.logout()


def _hang_up(client: IMAPClient) -> None:
    with suppress(OSError, IMAPClientError):
        client.shutdown()

"""Mail handed over by a server on this machine (LMTP, RFC 2033): on disk, and durably so, before it is accepted.

aiosmtpd speaks the commands. What follows DATA is read here: it would hold each line as an object, which takes 1 GB for
36 MB of empty lines, refuse lines of more than 998 bytes, and give one answer where LMTP owes each recipient one."""

import asyncio
import errno
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session

from mailagent.adapters.dkim import DkimCheck, Signature
from mailagent.adapters.spool import Spool
from mailagent.config import Lmtp, Mail
from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.ports import Room

log = logging.getLogger(__name__)

MAX_RECIPIENTS = 100
"""As many as RFC 5321 section 4.5.3.1.8 asks for."""
BLOCK = 1 << 16
MAX_HEADER = 1 << 20

_END = b"\r\n.\r\n"
_HEADER_END = re.compile(rb"^\r?\n", re.MULTILINE)
_FIELD_START = re.compile(rb"(?<=\n)(?![ \t])")
_SIGNED = re.compile(rb"^dkim-signature[ \t]*:", re.IGNORECASE | re.MULTILINE)


class LmtpServer:
    """Listens where `lmtp.listen` says, and keeps in `spool` what is for our addresses."""

    def __init__(self, lmtp: Lmtp, mail: Mail, spool: Spool, dkim: DkimCheck, room: Room) -> None:
        self._lmtp = lmtp
        self._authserv_id = mail.authserv_id if lmtp.trust_dkim else ""
        self._dkim = dkim
        self.room = room
        self._own = frozenset(lmtp.recipients or (mail.address,))
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self.max_bytes = int(mail.max_message_mb * 1e6)
        self.spool = spool

    async def start(self) -> None:
        """Listen. ConfigError when that cannot be done there."""
        logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd logs each command
        loop, listen = asyncio.get_running_loop(), self._lmtp.listen
        host, _, port = listen.rpartition(":")
        try:
            if listen.startswith("/"):
                self._server = await loop.create_unix_server(self._connection, listen)
                # Who may come in is said by the directory: the other server is of another user, and a socket's group
                # would have to be its group (docs/operations.md).
                Path(listen).chmod(0o666)
            else:
                self._server = await loop.create_server(self._connection, host.strip("[]"), int(port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"lmtp.listen: cannot listen on {listen}: {error}") from error
        log.info("LMTP on %s", listen)

    @property
    def port(self) -> int:
        """The port that is listened on, after start()."""
        port: int = self._server.sockets[0].getsockname()[1] if self._server else 0
        return port

    async def stop(self) -> None:
        """Stop listening and cut what is open: a mail that was not answered for comes again."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in self._connections:
            connection.cut()
        await asyncio.gather(*(connection.over for connection in self._connections))
        await server.wait_closed()
        if self._lmtp.listen.startswith("/"):
            Path(self._lmtp.listen).unlink(missing_ok=True)

    def knows(self, recipient: str) -> bool:
        """Whether the address is one of ours, its +tag left out (RFC 5233)."""
        local, _, domain = recipient.lower().rpartition("@")
        return f"{local.partition('+')[0]}@{domain}" in self._own

    async def keep(self, draft: BinaryIO, sender: str, recipients: Sequence[str]) -> int:
        """Stamp the message in this file and keep it in the spool; returns its number there.

        OSError, TemporaryError when it is not kept."""
        draft.seek(0)
        header = _header(draft.read(MAX_HEADER))
        results = None
        if self._authserv_id:
            results = await self._dkim.check(draft) if _SIGNED.search(header) else ()
            if _is_open(header, results):  # once it is taken, nobody looks again whether its sender is proven
                raise TemporaryError("no name server says by which key it is signed")
        draft.seek(len(header))
        return await self.spool.add(stamp(header, sender, recipients, self._authserv_id, results), draft)

    def _connection(self) -> "_Connection":
        connection = _Connection(self)
        self._connections.add(connection)
        connection.over.add_done_callback(lambda _: self._connections.discard(connection))
        return connection


class _Receiver:
    """What aiosmtpd asks for each recipient."""

    def __init__(self, server: LmtpServer) -> None:
        self._server = server

    async def handle_RCPT(  # noqa: N802
        self, _connection: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if not self._server.knows(address):
            return "550 5.1.1 there is no such mailbox here"
        if not await self._server.room.free():
            return "452 4.3.1 the disk is full"
        if len(envelope.rcpt_tos) >= MAX_RECIPIENTS:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"


class _Connection(LMTP):
    """One connection; `over` is done when it has ended."""

    def __init__(self, server: LmtpServer) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            _Receiver(server),
            hostname="mailagent",
            ident="LMTP",
            loop=loop,
            data_size_limit=server.max_bytes,
            enable_SMTPUTF8=True,
        )
        self._owner = server
        self.over: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport says so."""
        super().connection_made(transport)
        if self._handler_coroutine is not None:
            self._handler_coroutine.add_done_callback(self._ended)

    def _ended(self, handler: "asyncio.Task[None]") -> None:
        if not handler.cancelled() and (error := handler.exception()):
            log.info("an LMTP connection was lost: %s", error)
        self.over.set_result(None)

    def cut(self) -> None:
        """End the connection without a word."""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    async def handle_exception(self, error: Exception) -> str:
        """The answer to what failed by a fault of ours, before the connection is closed: the other server keeps its
        mail, and what it was about to send is not taken for commands."""
        log.error("an LMTP connection failed", exc_info=error)
        if self.transport is not None:
            asyncio.get_running_loop().call_soon(self.transport.close)  # when the answer is written
        return "421 4.3.0 this cannot be done now"

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        """Take a message, and answer once for each recipient (RFC 2033 section 4.2)."""
        envelope = self.envelope
        if envelope is None or not envelope.rcpt_tos:
            await self.push("503 5.5.1 need RCPT command")
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        answer, is_last = await self._take(envelope)
        for _ in envelope.rcpt_tos:
            await self.push(answer)
        self.envelope = self._create_envelope()
        if is_last and self.transport is not None:
            await self.push("421 4.7.0 nothing may follow a mail before its answer")
            self.transport.close()

    async def _take(self, envelope: Envelope) -> tuple[str, bool]:
        """The answer, and whether something followed that a server would not send (RFC 2920: it was not offered)."""
        data = EndOfData()
        try:
            with self._owner.spool.draft() as draft:
                size = await self._receive(data, draft)
                if size > self._owner.max_bytes:
                    return "552 5.3.4 the mail is too large", bool(data.rest)
                number = await self._owner.keep(draft, envelope.mail_from or "", envelope.rcpt_tos)
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            await self._receive(data, None)
            log.warning("a mail cannot be kept and has to come again: %s", error)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return "452 4.3.1 the disk is full" if full else "451 4.3.0 the mail cannot be kept now", bool(data.rest)
        except TemporaryError as error:
            log.warning("a mail cannot be checked and has to come again: %s", error)
            return "451 4.3.0 the mail cannot be checked now", bool(data.rest)
        log.info("took a mail for %s as %d", ", ".join(envelope.rcpt_tos), number)
        return f"250 2.0.0 kept as {number}", bool(data.rest)

    async def _receive(self, data: "EndOfData", draft: BinaryIO | None) -> int:
        """Read up to the end of the message, whose size is returned; what is beyond the limit is not written."""
        size = 0
        while not data.found:
            block = await self._reader.read(BLOCK)
            if not block:
                raise ConnectionResetError("in the middle of a mail")
            self._reset_timeout()
            piece = data.feed(block)
            size += len(piece)
            if draft and size <= self._owner.max_bytes:
                draft.write(piece)
        return size


class EndOfData:
    """The end of a mail in a stream, wherever its blocks are cut (RFC 5321 section 4.5.2).

    Only CR LF . CR LF ends a mail: what others take for it (LF . LF, LF . CR LF, …) is part of it. `rest` is what came
    after the end."""

    def __init__(self) -> None:
        self.found = False
        self.rest = b""
        self._held = b"\r\n"  # the mail begins as a line does
        self._skip = 2

    def feed(self, block: bytes) -> bytes:
        """The next bytes of the mail, the dots that were doubled for the transport taken back."""
        data = self._held + block
        end = data.find(_END)
        self.found = end >= 0
        if self.found:
            out, self.rest = data[: end + 2], data[end + len(_END) :]
        else:
            start = max(0, len(data) - len(_END) + 1)
            cut = data.find(b"\r", start)  # what follows may be the beginning of the end
            out, self._held = (data[:cut], data[cut:]) if cut >= 0 else (data, b"")
        out = out.replace(b"\r\n.", b"\r\n")
        skip, self._skip = self._skip, max(0, self._skip - len(out))
        return out[skip:]


def stamp(
    header: bytes,
    sender: str,
    recipients: Iterable[str],
    authserv_id: str,
    results: Sequence[Signature] | None,
) -> bytes:
    """The header as it is kept: our verdict on top, then the envelope (RFC 5321 section 4.4), then what was there.

    With `results` – those of our own check – every Authentication-Results that names `authserv_id` is taken out, since
    it came from outside (RFC 8601 section 5). No Received field and no date: a mail that comes again, because our
    answer was lost, must have the same bytes, or it would be answered twice. Our verdict never comes last: a mail that
    begins with a folded line would go on in it."""
    kept = [
        field for field in _FIELD_START.split(header) if not _falls(field, authserv_id if results is not None else "")
    ]
    envelope = [f"Return-Path: <{_plain(sender.strip('<>'))}>"]
    envelope += [f"Delivered-To: {_plain(recipient)}" for recipient in recipients]
    added = ([] if results is None else [_verdict(authserv_id, results)]) + envelope
    return "".join(f"{line}\r\n" for line in added).encode() + b"".join(kept)


def _verdict(authserv_id: str, results: Sequence[Signature]) -> str:
    said = [f"dkim={one.result}" + (f" header.d={one.domain}" if one.domain else "") for one in results]
    return ";\r\n\t".join([f"Authentication-Results: {authserv_id}", *(said or ["dkim=none"])])


def _is_open(header: bytes, results: Iterable[Signature]) -> bool:
    """Whether the sender may yet be proven: his domain, or a parent of it, has signed, by a key out of reach."""
    senders = b"".join(field for field in _FIELD_START.split(header) if _name(field) == b"from").lower()
    said = {one.result for one in results if one.domain.encode() in senders}
    return "temperror" in said and "pass" not in said


def _falls(field: bytes, authserv_id: str) -> bool:
    if _name(field) == b"authentication-results":
        return bool(authserv_id) and authserv_id.lower().encode() in field.lower()
    return _name(field) == b"return-path"  # only the last server writes it


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].strip().lower()


def _plain(address: str) -> str:
    return re.sub(r"[^\x21-\x7e]", "?", address)


def _header(data: bytes) -> bytes:
    """The header of a message that begins so, without the empty line; cut at the last line when it does not end."""
    end = _HEADER_END.search(data)
    return data[: end.start()] if end else data[: data.rfind(b"\n") + 1]

"""The SMTP half of the demo's mail server: takes mail for its accounts and stamps it as a receiving server does."""

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from mailagent.demo.imapwords import field_name, header_end, header_fields
from mailagent.demo.mailstore import Account, Faults

MAX_MESSAGE = 64 * 2**20

_LONE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_FROM = re.compile(rb"from[ \t]*:(?:[^<>@]*<)?\s*([^\s<>@,;]+@([a-z0-9.-]+))\s*>?\s*", re.IGNORECASE)


class Receiver:
    """What aiosmtpd asks about each connection: who may log in, who is known here, what becomes of a mail."""

    def __init__(
        self, accounts: Mapping[str, Account], faults: Faults, authserv_id: str, keeps_sent: bool = False
    ) -> None:
        self._accounts = accounts
        self._faults = faults
        self._authserv_id = authserv_id
        self._keeps_sent = keeps_sent

    def log_in(
        self, _connection: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: LoginPassword
    ) -> AuthResult:
        """Whether this is the account's password (RFC 4954)."""
        user = given.login.decode("utf-8", "replace").lower()
        account = self._accounts.get(user)
        proven = account is not None and account.password == given.password.decode("utf-8", "replace")
        return AuthResult(success=proven, handled=False, auth_data=user)

    async def handle_RCPT(  # noqa: N802
        self, _connection: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """550 for whom it does not know."""
        if self._account(address) is None:
            return "550 5.1.1 there is no such mailbox here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, connection: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Store the mail for each recipient."""
        data = envelope.content
        if not isinstance(data, bytes) or _LONE.search(data):
            return "554 5.6.0 CR and LF belong together (RFC 5321 section 2.3.8)"
        if self._faults.data_reply:
            return self._faults.data_reply
        if self._faults.drop == "before":
            await _cut(connection)
        user = str(session.auth_data) if session.authenticated else ""
        for address in envelope.rcpt_tos:
            if account := self._account(address):
                stamps = _trace(session, envelope, address, self._authserv_id)
                account.folders["INBOX"].add(stamp(data, stamps, user, self._authserv_id))
        if self._keeps_sent and user:
            self._accounts[user].folders["Sent"].add(data, [r"\Seen"])
        if self._faults.drop == "after":
            await _cut(connection)
        return "250 2.0.0 OK, stored"

    def _account(self, recipient: str) -> Account | None:
        """`agent+anything@` goes to `agent@` (RFC 5233)."""
        local, _, domain = recipient.lower().rpartition("@")
        return self._accounts.get(f"{local.partition('+')[0]}@{domain}")


class Connection(SMTP):
    """One SMTP connection; `over` is done when it has ended."""

    def __init__(self, receiver: Receiver, hostname: str) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            receiver,
            hostname=hostname,
            ident="ready",
            loop=loop,
            authenticator=receiver.log_in,
            auth_require_tls=False,  # loopback only
            data_size_limit=MAX_MESSAGE,
        )
        self.over: asyncio.Future[None] = loop.create_future()

    def connection_lost(self, error: Exception | None) -> None:
        """The transport says so."""
        super().connection_lost(error)
        if not self.over.done():
            self.over.set_result(None)

    def cut(self) -> None:
        """End the connection without a word."""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()


def stamp(data: bytes, trace: tuple[str, str], user: str, authserv_id: str) -> bytes:
    """The mail as it lies in the mailbox: below its Return-Path the verdict on its sender, `user` if a password proved
    one, and the Received line; what the mail itself claims in our name is taken out (RFC 8601 section 5)."""
    kept = [field for field in header_fields(data) if not _claims(field, authserv_id)]
    return_path, received = trace
    added = f"Return-Path: {return_path}\r\n{_verdict(data, user, authserv_id)}\r\nReceived: {received}\r\n"
    return added.encode("ascii", "replace") + b"".join(kept) + data[header_end(data) :]


def _claims(field: bytes, authserv_id: str) -> bool:
    if field_name(field) == "return-path":
        return True  # only the last server writes it (RFC 5321 section 4.4)
    return field_name(field) == "authentication-results" and authserv_id.lower() in field.decode("latin-1").lower()


def _verdict(data: bytes, user: str, authserv_id: str) -> str:
    """dmarc=pass for a mail with one From of one plain address that is the user's, whatever else it looks like."""
    senders = [field for field in header_fields(data) if field_name(field) == "from"]
    match = _FROM.fullmatch(senders[0]) if len(senders) == 1 else None
    address, domain = (match[1].decode("latin-1").lower(), match[2].decode().lower()) if match else ("", "")
    result = "pass" if user and address == user else "fail"
    return f"Authentication-Results: {authserv_id}; dmarc={result}" + (f" header.from={domain}" if domain else "")


def _trace(session: Session, envelope: Envelope, recipient: str, authserv_id: str) -> tuple[str, str]:
    """Return-Path and Received (RFC 5321 section 4.4)."""
    protocol = "ESMTPA" if session.authenticated else "ESMTP"
    helo = re.sub(r"[^\w.:\[\]-]", "?", session.host_name or "")
    date = format_datetime(datetime.now(UTC))
    received = f"from {helo}\r\n\tby {authserv_id} with {protocol} for <{recipient}>; {date}"
    return f"<{(envelope.mail_from or '').strip('<>')}>", received


async def _cut(connection: SMTP) -> None:
    if isinstance(connection, Connection):
        connection.cut()
    # aiosmtpd cancels the handler once the connection is gone
    await asyncio.get_running_loop().create_future()

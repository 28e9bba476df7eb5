"""The way out by SMTP submission (RFC 6409): the standard library's smtplib, in a thread, one connection a mail."""

import asyncio
import re
import smtplib
import socket
import ssl
from contextlib import suppress
from typing import NoReturn

from mailagent.adapters import sent
from mailagent.adapters.imap import in_words, tls_context
from mailagent.adapters.oauth import access_token, xoauth2
from mailagent.config import Imap, Smtp
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import Outgoing

_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w.-]+", re.ASCII)
"""Dot-atoms alone (RFC 5322 section 3.4.1): smtplib would take a comment or a quoted string apart in its own way."""

_GOODBYE_SECONDS = 5.0


FINAL_SECONDS = 600.0
"""A server may look long at a mail before it takes it (RFC 5321 section 4.5.3.2.6)."""


class SmtpSubmission:
    """ports.Submission."""

    def __init__(
        self, smtp: Smtp, imap: Imap, password: str, imap_password: str, final_seconds: float = FINAL_SECONDS
    ) -> None:
        self._smtp = smtp
        self._final = final_seconds
        self._imap = imap
        self._password = password
        self._imap_password = imap_password
        self._tls = tls_context(smtp.security, smtp.ca_file)
        self._imap_tls = tls_context(imap.security, imap.ca_file)

    async def send(self, outgoing: Outgoing) -> str:
        """See ports.Submission. What the server has against us and not against this mail (a refused login, say) is a
        TemporaryError, 5xx or not."""
        dialled: list[smtplib.SMTP] = []
        thread = asyncio.ensure_future(asyncio.to_thread(self._send, outgoing, dialled))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:  # the thread goes on whatever we want: what it did must be known, and soon
            for client in dialled:
                _cut(client)
            return await thread

    async def file_sent(self, outgoing: Outgoing) -> None:
        """See ports.Submission; for smtp.sent_copy = "auto" the Message-ID is looked for first."""
        if self._smtp.sent_copy == "never":
            return
        await asyncio.to_thread(sent.file, *self._mailbox(), outgoing, unless_there=self._smtp.sent_copy == "auto")

    async def was_sent(self, outgoing: Outgoing) -> bool:
        """See ports.Submission."""
        return await asyncio.to_thread(sent.holds, *self._mailbox(), outgoing.message_id)

    def _mailbox(self) -> tuple[Imap, ssl.SSLContext | None, str]:
        return self._imap, self._imap_tls, self._imap_password

    async def announced(self, sender: str) -> dict[str, str]:
        """What the server can do once we are logged in and it takes mail from `sender`: EHLO keyword, in lower case,
        to its parameters (RFC 5321 section 4.1.1.1). Sends nothing. Raises TemporaryError and PermanentError."""
        return await asyncio.to_thread(self._announced, sender)

    def _announced(self, sender: str) -> dict[str, str]:
        client = self._connect()
        try:
            self._expect_ok(*client.mail(sender))
            client.rset()
            return dict(client.esmtp_features)
        except (smtplib.SMTPException, OSError) as error:
            raise TemporaryError(in_words(error, self._smtp.host)) from error
        finally:
            _quit(client)

    def _send(self, outgoing: Outgoing, dialled: list[smtplib.SMTP]) -> str:
        for address in (outgoing.sender, outgoing.recipient):
            if not _ADDRESS.fullmatch(address):
                raise PermanentError(f"Mail cannot be sent to or from the address {address!r}.")
        client = self._connect()
        dialled.append(client)
        try:
            return self._hand_over(client, outgoing)
        finally:
            _quit(client)

    def _connect(self) -> smtplib.SMTP:
        smtp = self._smtp
        # Before the connection: servers do not wait for long.
        token = access_token(smtp.token_command, smtp.timeout_seconds) if smtp.auth == "xoauth2" else ""
        try:
            client = self._dial()
            try:
                self._log_in(client, token)
            except (smtplib.SMTPException, OSError, ValueError):
                client.close()
                raise
        except smtplib.SMTPResponseException as error:
            raise TemporaryError(f"{self._smtp.host}: {error.smtp_code} {_text(error.smtp_error)}") from error
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise TemporaryError(in_words(error, self._smtp.host)) from error
        return client

    def _dial(self) -> smtplib.SMTP:
        host, port, seconds = self._smtp.host, self._smtp.port, self._smtp.timeout_seconds
        if self._smtp.security == "tls":
            return smtplib.SMTP_SSL(host, port, timeout=seconds, context=self._tls)
        return smtplib.SMTP(host, port, timeout=seconds)

    def _log_in(self, client: smtplib.SMTP, token: str) -> None:
        if self._smtp.security == "starttls":
            client.starttls(context=self._tls)
        client.ehlo_or_helo_if_needed()
        if not self._smtp.user:
            return
        if token:
            client.auth("XOAUTH2", xoauth2(self._smtp.user, token))
        else:
            client.login(self._smtp.user, self._password)

    def _hand_over(self, client: smtplib.SMTP, outgoing: Outgoing) -> str:
        try:
            code, answer = client.mail(outgoing.sender)
            if not 200 <= code <= 299:  # it is against us, not against this mail
                raise TemporaryError(f"{self._smtp.host}: {code} {_text(answer)}")
            self._expect_ok(*client.rcpt(outgoing.recipient))
        except (smtplib.SMTPException, OSError) as error:
            raise TemporaryError(in_words(error, self._smtp.host)) from error
        try:
            if client.sock:
                client.sock.settimeout(self._final)
            code, answer = client.data(outgoing.data)
        except smtplib.SMTPDataError as error:
            self._refuse(error.smtp_code, error.smtp_error)
        except (smtplib.SMTPException, OSError) as error:
            raise TemporaryError(in_words(error, self._smtp.host), uncertain=True) from error
        if not (200 <= code <= 299 or 400 <= code <= 599):
            raise TemporaryError(f"{self._smtp.host}: {code} {_text(answer)}", uncertain=True)
        self._expect_ok(code, answer)
        return f"{code} {_text(answer)}"

    def _expect_ok(self, code: int, answer: bytes) -> None:
        if not 200 <= code <= 299:
            self._refuse(code, answer)

    def _refuse(self, code: int, answer: bytes | str) -> NoReturn:
        words = f"{self._smtp.host}: {code} {_text(answer)}"
        if 500 <= code <= 599:
            raise PermanentError(words)
        raise TemporaryError(words)


def _quit(client: smtplib.SMTP) -> None:
    """Part politely (RFC 5321 section 4.1.1.10); the mail's fate is known by now, so nothing here matters."""
    with suppress(smtplib.SMTPException, OSError):
        if isinstance(client.sock, socket.socket):
            client.sock.settimeout(_GOODBYE_SECONDS)
        client.quit()
    client.close()


def _cut(client: smtplib.SMTP) -> None:
    """Wake the thread that waits for the server."""
    with suppress(OSError):
        if isinstance(client.sock, socket.socket):
            socket.socket.shutdown(client.sock, socket.SHUT_RDWR)  # SSLSocket's own would forget the TLS state


def _text(answer: bytes | str) -> str:
    return answer if isinstance(answer, str) else answer.decode("utf-8", "replace")

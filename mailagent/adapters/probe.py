"""What the mail servers can do, asked with the daemon's own logins and left as they were: `mailagent check --mail`."""

import asyncio
import imaplib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from mailagent.adapters.imap import DONE, connect, in_words, tls_context
from mailagent.adapters.smtp import SmtpSubmission
from mailagent.config import Config
from mailagent.core.errors import PermanentError, TemporaryError

_ENCODED = 1.37
"""By how much an attachment grows on its way (RFC 2045 section 6.8), line breaks included."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing asked of a server: "good", "lesser" (the daemon serves without it), or "bad" (it cannot serve)."""

    name: str
    level: Literal["good", "lesser", "bad"]
    words: str


async def probe(config: Config) -> list[Finding]:
    """What both servers can do for these settings, what they lack, and what that means. Raises ConfigError."""
    return [*await asyncio.to_thread(lambda: list(_imap(config))), *await _smtp(config)]


def _imap(config: Config) -> Iterator[Finding]:
    imap, mail = config.imap, config.mail
    tls = tls_context(imap.security, imap.ca_file)
    try:
        with connect(imap, tls, config.secrets.imap_password.get_secret_value()) as client:
            yield Finding("IMAP", "good", f"logged in to {imap.host}:{imap.port} as {imap.user}")
            if not client.folder_exists(mail.folder):
                yield Finding(f"folder {mail.folder}", "bad", "is not there: create it, or mend mail.folder")
                return
            yield from _folder(client.select_folder(mail.folder), mail.folder)
            yield from _extensions({word.decode("ascii", "replace").upper() for word in client.capabilities()}, config)
            yield _sent(client.find_special_folder(b"\\Sent"), config.smtp.sent_copy)
    except TemporaryError as error:
        yield Finding("IMAP", "bad", str(error))
    except (imaplib.IMAP4.error, OSError, ValueError, LookupError) as error:
        yield Finding("IMAP", "bad", in_words(error, imap.host))


def _folder(selected: dict[bytes, Any], name: str) -> Iterator[Finding]:
    about = f"{selected[b'EXISTS']} messages, UIDVALIDITY {selected[b'UIDVALIDITY']}"
    yield Finding(f"folder {name}", "good", about)
    if b"READ-ONLY" in selected:
        yield Finding(
            "writing", "lesser", "the folder is open for reading only: handled mail is neither marked nor moved"
        )
    kept = {flag.lower() for flag in selected.get(b"PERMANENTFLAGS", ())}
    if kept & {rb"\*", DONE.lower().encode()}:
        yield Finding("keywords", "good", f"handled mail is marked {DONE}")
    else:
        yield Finding("keywords", "lesser", "are not kept: handled mail is not marked; nothing depends on it")


def _extensions(capabilities: set[str], config: Config) -> Iterator[Finding]:
    mail = config.mail
    moves = bool({mail.processed_folder, mail.refused_folder, mail.held_folder} - {"", mail.folder})
    lacking = {
        "IDLE": f"new mail is noticed within {config.imap.idle_seconds:g} s (imap.idle_seconds) and not at once",
        "MOVE": "handled mail is copied, then deleted" if moves else "not needed: no folder for handled mail is set",
        "UIDPLUS": "where mail is copied and deleted, it stays marked as deleted until somebody expunges"
        if moves and "MOVE" not in capabilities
        else "not needed as things are set",
        "SPECIAL-USE": "the Sent folder is looked for by its usual names",
    }
    for name, meaning in lacking.items():
        if name in capabilities:
            yield Finding(name, "good", "")
        else:
            yield Finding(name, "good" if meaning.startswith("not needed") else "lesser", f"missing: {meaning}")


def _sent(folder: str | None, copies: str) -> Finding:
    if copies == "never":
        return Finding("Sent folder", "good", 'not needed: smtp.sent_copy = "never"')
    if folder is None:
        return Finding("Sent folder", "lesser", "not found: no copies of replies are kept")
    return Finding("Sent folder", "good", folder)


async def _smtp(config: Config) -> list[Finding]:
    smtp, secrets = config.smtp, config.secrets
    submission = SmtpSubmission(
        smtp, config.imap, secrets.smtp_password.get_secret_value(), secrets.imap_password.get_secret_value()
    )
    try:
        announced = await submission.announced(config.mail.address)
    except (TemporaryError, PermanentError) as error:
        return [Finding("SMTP", "bad", str(error))]
    who = f"logged in to {smtp.host}:{smtp.port} as {smtp.user}" if smtp.user else f"{smtp.host}:{smtp.port}, no login"
    return [
        Finding("SMTP", "good", f"{who}; it takes mail from {config.mail.address}"),
        _logins(announced.get("auth", ""), smtp.user),
        _size(announced.get("size", ""), config.sandbox.max_out_mb),
    ]


def _logins(mechanisms: str, user: str) -> Finding:
    if not mechanisms.strip():
        return Finding("AUTH", "good", "not offered, not needed")
    if not user:
        return Finding("AUTH", "lesser", f"offered ({mechanisms.strip()}), but smtp.user is not set: it may not relay")
    return Finding("AUTH", "good", mechanisms.strip())


def _size(announced: str, max_out_mb: float) -> Finding:
    """RFC 1870: 0, or no figure, is no fixed limit."""
    limit, needed = int(announced) / 1e6 if announced.strip().isdecimal() else 0.0, max_out_mb * _ENCODED
    if not limit:
        return Finding("SIZE", "good", "no limit is announced")
    if limit < needed:
        meaning = f"a reply can have {needed:.0f} MB (sandbox.max_out_mb, encoded), and is refused beyond that"
        return Finding("SIZE", "lesser", f"{limit:.0f} MB at most: {meaning}")
    return Finding("SIZE", "good", f"{limit:.0f} MB at most")

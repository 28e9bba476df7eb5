"""Signed reply tokens: a Reply-To address that proves which thread a sender was answered in, whatever headers survive.

A token holds, in lower-case base32 (RFC 4648 section 6), the key's id (1 byte), the thread (10), the turn (2), and the
first 10 bytes of HMAC-SHA256 (RFC 2104) over thread, turn and sender. The sender is part of what is signed, so that a
token that was forwarded or leaked is worth nothing to anybody else."""

import hashlib
import hmac
import re
from base64 import b32decode, b32encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailagent.core.values import ThreadId

_TOKEN = re.compile(r"[A-Za-z2-7]{37}")
_HEAD = 13
"""Key id, thread and turn, in bytes."""

MAX_LOCAL = 64
"""The local part of an address in octets (RFC 5321 section 4.5.3.1.1)."""


@dataclass(frozen=True, slots=True)
class Key:
    """A secret that signs tokens; `id` (0 to 255) says in a token which of several it was."""

    id: int
    secret: bytes


def make(key: Key, thread: ThreadId, turn: int, sender: str) -> str:
    """The token for the reply to `sender` in this turn of the thread: 37 characters, the same each time."""
    signed = b32decode(thread.upper()) + (turn % 65536).to_bytes(2, "big")
    mac = hmac.digest(key.secret, signed + sender.lower().encode("utf-8", "surrogateescape"), hashlib.sha256)
    return b32encode(bytes([key.id]) + signed + mac[:10]).decode("ascii").rstrip("=").lower()


def read(token: str, keys: Sequence[Key], sender: str) -> ThreadId | None:
    """The thread that the token proves for this sender; None when one of these keys did not make it for them.

    Upper and lower case are one: servers change the case of local parts."""
    if not _TOKEN.fullmatch(token):
        return None
    given = token.lower()
    head = b32decode(f"{given.upper()}===")[:_HEAD]
    thread = ThreadId(b32encode(head[1:11]).decode("ascii").lower())
    # Made anew and compared as a whole: the bit that 37 characters have too many cannot be changed unnoticed either.
    made = (make(key, thread, int.from_bytes(head[11:]), sender) for key in keys if key.id == head[0])
    return thread if any(hmac.compare_digest(one, given) for one in made) else None


def address_with(token: str, own: str) -> str | None:
    """Our address with the token in it (RFC 5233); None when its local part would be too long."""
    local, _, domain = own.rpartition("@")
    tagged = f"{local}+{token}"
    return f"{tagged}@{domain}" if len(tagged.encode()) <= MAX_LOCAL else None


def tokens_in(recipients: Iterable[str], own: str) -> tuple[str, ...]:
    """What looks like a token in those of the addresses that are ours, in their order, each once; nothing is proven."""
    local, _, domain = own.lower().rpartition("@")
    pairs = (recipient.lower().rpartition("@") for recipient in recipients if recipient.isascii())
    tags = (
        name.removeprefix(f"{local}+") for name, _, host in pairs if host == domain and name.startswith(f"{local}+")
    )
    return tuple(dict.fromkeys(tag for tag in tags if _TOKEN.fullmatch(tag)))

"""What the demo's mail server keeps in memory: accounts, their folders and mails; and the faults a test switches on."""

import asyncio
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

_validities = itertools.count(int(time.time()))
"""UIDVALIDITY must grow whenever a folder comes into being anew (RFC 3501 section 2.3.1.1): begin with the time."""


@dataclass(slots=True)
class Faults:
    """What goes wrong, for tests; by default nothing does."""

    data_reply: str = ""
    """This answer to a whole mail instead of 250, like "451 4.3.0 later"; the mail is not stored."""
    drop: Literal["", "before", "after"] = ""
    """Instead of the 250, the connection is cut: before or after the mail is stored."""
    bye_in_idle: bool = False
    """IDLE is answered, then ends with BYE and the connection with it (RFC 3501 section 7.1.5)."""


@dataclass(slots=True, eq=False)
class Mail:
    """A message in a folder."""

    uid: int
    data: bytes
    flags: set[str]
    at: datetime


class Folder:
    """An IMAP mailbox; `watchers` are set at each change."""

    def __init__(self, special_use: str = "") -> None:
        self.special_use = special_use
        self.uidvalidity = next(_validities)
        self.uidnext = 1
        self.mails: list[Mail] = []
        self.watchers: set[asyncio.Event] = set()

    def add(self, data: bytes, flags: Iterable[str] = (), at: datetime | None = None) -> Mail:
        """Store a message under the next UID."""
        mail = Mail(self.uidnext, data, set(flags), at or datetime.now(UTC))
        self.uidnext += 1
        self.mails.append(mail)
        self._tell()
        return mail

    def remove(self, mails: Iterable[Mail]) -> None:
        """Forget these messages."""
        gone = set(mails)
        self.mails = [mail for mail in self.mails if mail not in gone]
        self._tell()

    def renumber(self) -> None:
        """A new UIDVALIDITY, as after a restored backup; the UIDs begin again with 1."""
        self.uidvalidity = next(_validities)
        self.mails = [replace(mail, uid=uid) for uid, mail in enumerate(self.mails, 1)]
        self.uidnext = len(self.mails) + 1
        self._tell()

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher.set()


@dataclass(slots=True)
class Account:
    """A mailbox owner: a password and folders by name."""

    password: str
    folders: dict[str, Folder] = field(default_factory=lambda: {"INBOX": Folder(), "Sent": Folder("\\Sent")})

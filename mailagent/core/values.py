"""What travels between the stages of one mail, in the order it is made: read this first."""

from dataclasses import dataclass
from typing import ClassVar, NewType

from pydantic import ConfigDict

JobId = NewType("JobId", str)
ThreadId = NewType("ThreadId", str)
SessionId = NewType("SessionId", str)
BlobId = NewType("BlobId", str)
"""SHA-256 of the content, 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One folder of one account under one UIDVALIDITY, within which UIDs mean something (RFC 9051 section 2.3.1.1)."""

    account: str
    folder: str
    uidvalidity: int


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message's bytes as the server handed them over, where they lie, and when we took them (Unix seconds)."""

    data: bytes
    mailbox: Mailbox
    uid: int
    received_at: float


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file with a name that is safe on every file system, and its media type."""

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message understood (RFC 5322): who writes, to which conversation it belongs, what is new in it.

    `sender` and `recipients` are bare addresses in lower case; `message_id`, `in_reply_to` and `references` keep their
    angle brackets; `text` is what the writer wrote now, `quoted` the history below it; `automatic` says why a
    machine wrote it, "" for a person; `authentication` holds the Authentication-Results values, topmost first (RFC
    8601); `defects` says why the sender cannot be told, empty when it can.
    """

    message_id: str
    sender: str
    sender_name: str
    recipients: tuple[str, ...]
    subject: str
    text: str
    quoted: str
    in_reply_to: tuple[str, ...]
    references: tuple[str, ...]
    attachments: tuple[Attachment, ...]
    automatic: str
    authentication: tuple[str, ...]
    defects: tuple[str, ...]
    bounces: tuple[str, ...] = ()
    """Message-IDs of ours that this mail reports as undelivered (RFC 3464)."""
    delivered_to: tuple[str, ...] = ()
    """The addresses that servers noted when they delivered it."""
    is_report: bool = False
    """Whether it is a report on another mail (RFC 6522); of which one, only its body says."""


@dataclass(frozen=True, slots=True)
class Accept:
    """The mail is answered by the agent."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """The mail is filed without a reply; `reason` goes to the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The sender is proven and gets one plain reply that says `reason`; no agent runs."""

    reason: str


Verdict = Accept | Ignore | Refuse


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation: its owner and those whom they addressed along may continue it; `turns` counts the answers."""

    id: ThreadId
    owner: str
    turns: int
    participants: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Profile:
    """What the profile script found: `text` for the prompt, and which attachments are tables or not."""

    text: str
    tables: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    """Pairs of (attachment name, reason in plain words)."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One inbound message of one thread as the agent meets it; `number` counts from 1."""

    thread: ThreadId
    number: int
    session: SessionId
    prompt: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn cost, as the gateway counted it; `input_tokens` are all that was read, from the cache or not."""

    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class OutFile:
    """A regular file the agent left in `out/`: its path relative to `out/`, POSIX separators, and its bytes."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a turn came to: the answer in Markdown, the files of `out/`, and what it cost."""

    answer: str
    files: tuple[OutFile, ...]
    usage: Usage
    first_request_at: float
    """Unix seconds of the first model request; 0.0 when there was none."""


@dataclass(frozen=True, slots=True)
class Image:
    """A chart shown inline by its Content-ID (RFC 2392)."""

    content_id: str
    name: str
    alt: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An outcome made readable: the same answer as plain text and as HTML, its charts, and the files that go along."""

    text: str
    html: str
    images: tuple[Image, ...]
    attachments: tuple[Attachment, ...]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A reply frozen as the bytes that are sent (RFC 5322, CRLF), with its envelope (RFC 5321): one recipient."""

    message_id: str
    sender: str
    recipient: str
    data: bytes

"""A job: one inbound message on its way to one reply, and the stages it goes through."""

import hashlib
import json
from base64 import b32encode
from dataclasses import dataclass, replace
from typing import get_args

from pydantic import TypeAdapter

from mailagent.core.values import BlobId, JobId, Mailbox, SessionId, ThreadId, Usage


@dataclass(frozen=True, slots=True)
class Received:
    """Taken over from the mailbox; waits for its turn. `refusal` is what the sender is told instead of an answer."""

    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """The agent is done: answer and files are in the blob `outcome`; not yet laid out. `also` are the jobs that waited
    in the same thread and are answered by it."""

    outcome: BlobId
    usage: Usage
    also: tuple[JobId, ...] = ()


@dataclass(frozen=True, slots=True)
class Composed:
    """The reply's bytes are frozen in the blob `message` under `message_id`; not yet handed over."""

    message: BlobId
    message_id: str
    recipients: tuple[str, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Sending:
    """About to be handed to the mail server, for the `attempt`-th time: saved before DATA. `done` are the recipients
    that the server has taken it for."""

    composed: Composed
    attempt: int
    done: tuple[str, ...] = ()
    uncertain: int = 0
    """How often the connection was lost after DATA began: the server may have taken it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The mail server took the reply and said `response`."""

    composed: Composed
    response: str


@dataclass(frozen=True, slots=True)
class Bounced:
    """The mail server took the reply, and another one sent it back (RFC 3464)."""

    composed: Composed
    reason: str


@dataclass(frozen=True, slots=True)
class Merged:
    """Answered by the reply to another job of the same thread, which waited at the same time."""

    into: JobId


@dataclass(frozen=True, slots=True)
class Dead:
    """Ended without a reply; `reason` is for the operator."""

    reason: str


Stage = Received | Answered | Composed | Sending | Sent | Bounced | Merged | Dead

PLACES: dict[type[Stage], str] = {
    Received: "turns",
    Answered: "turns",
    Composed: "delivery",
    Sending: "delivery",
    Sent: "",
    Bounced: "bounced",
    Merged: "",
    Dead: "dead",
}
"""Where a job of a stage stands: in one of the two lanes, among the endings that people must see, or nowhere."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The moment a stage was reached, Unix seconds."""

    name: str
    at: float


@dataclass(frozen=True, slots=True)
class Job:
    """One inbound message on its way to one reply; `message` is the blob of its raw bytes."""

    id: JobId
    thread: ThreadId
    message: BlobId
    message_id: str
    sender: str
    subject: str
    mailbox: Mailbox
    uid: int
    stage: Stage
    history: tuple[Stamp, ...]
    attempts: int = 0
    """How often this lane's step failed on it."""
    colleagues: tuple[str, ...] = ()
    """Who else the mail was addressed to and may be answered too."""

    def at(self, stage: Stage, name: str, now: float) -> "Job":
        """The same job in another stage, with the moment noted under `name`."""
        return replace(self, stage=stage, history=(*self.history, Stamp(name, now)))

    def stamped(self, *stamps: Stamp) -> "Job":
        """The same job with more moments in its history."""
        return replace(self, history=(*self.history, *stamps))


def job_id(sender: str, message_id: str, message: BlobId) -> JobId:
    """The id of the job for a message: the same message met twice gives the same id, the same Message-ID with other
    bytes or from another sender another one (Message-IDs are the sender's choice)."""
    return JobId(_digest("job", sender, message_id, message))


def thread_id(job: JobId) -> ThreadId:
    """The id of the thread that a job opens."""
    return ThreadId(_digest("thread", job))


def session_id(thread: ThreadId) -> SessionId:
    """The SDK session of a thread: a UUID (RFC 9562 version 8) made from its id, so that no table need remember it."""
    h = hashlib.sha256(f"session\0{thread}".encode()).hexdigest()
    return SessionId(f"{h[:8]}-{h[8:12]}-8{h[13:16]}-a{h[17:20]}-{h[20:32]}")


def _digest(*parts: str) -> str:
    raw = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).digest()[:10]
    return b32encode(raw).decode("ascii").lower()


def encode(job: Job) -> str:
    """The job as JSON, for storage; `decode` reads it back."""
    stage: dict[str, object] = _STAGES[type(job.stage).__name__].dump_python(job.stage)
    return json.dumps({**_JOB.dump_python(job), "stage": {"is": type(job.stage).__name__, **stage}})


def decode(text: str) -> Job:
    """The job that `encode` wrote. Raises ValueError or KeyError when it is not one."""
    raw = json.loads(text)
    kind = _STAGES[raw["stage"].pop("is")]
    return _JOB.validate_python({**raw, "stage": kind.validate_python(raw["stage"])})


_STAGES: dict[str, TypeAdapter[Stage]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Stage)}
_JOB: TypeAdapter[Job] = TypeAdapter(Job)

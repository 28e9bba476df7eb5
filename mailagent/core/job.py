"""A job: one inbound message on its way to one reply, and the stages it goes through."""

import hashlib
import json
from base64 import b32encode
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import TypeAdapter

from mailagent.core.errors import PermanentError
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
    apology_for: str = ""
    """Why there was no answer, for the operator: the reply is an apology, and the job is held once it is sent."""


@dataclass(frozen=True, slots=True)
class Sending:
    """Being handed to the mail server, in an envelope for each recipient, for the `attempt`-th time. `done` are those
    that need no more envelope."""

    composed: Composed
    attempt: int
    done: tuple[str, ...] = ()
    to: str = ""
    """Whose envelope is under way, saved before the server sees it. Who finds a job so, and did not send it himself,
    cannot know whether the server took it: it is uncertain."""
    again: tuple[str, ...] = ()
    """Who was sent it once more because that was uncertain."""
    response: str = ""
    """What the server said when it took the last one."""


Waiting = Received | Answered | Composed | Sending
"""The stages of a job that is in a lane."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The mail server took the reply and said `response`."""

    composed: Composed
    response: str


@dataclass(frozen=True, slots=True)
class Bounced:
    """The reply was made and not delivered: the mail server refused it, or took it and another one sent it back
    (RFC 3464). `done` are those who got it all the same."""

    composed: Composed
    reason: str
    done: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Merged:
    """Answered by the reply to another job of the same thread, which waited at the same time."""

    into: JobId


@dataclass(frozen=True, slots=True)
class Held:
    """Kept for a person, out of its thread's way; `before` is where it goes on when it is released. Before is Sent
    where an apology went out instead of an answer."""

    reason: str
    before: Waiting | Sent


@dataclass(frozen=True, slots=True)
class Dead:
    """Ended without a reply; `reason` is for the operator."""

    reason: str


Stage = Waiting | Sent | Bounced | Merged | Held | Dead

PLACES: dict[type[Stage], str] = {
    Received: "turns",
    Answered: "turns",
    Composed: "delivery",
    Sending: "delivery",
    Sent: "",
    Bounced: "bounced",
    Merged: "",
    Held: "held",
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
    interrupted: int = 0
    """How often in a row a step on it began in this lane and never ended, as when the daemon is killed."""
    colleagues: tuple[str, ...] = ()
    """Who else the mail was addressed to and may be answered too."""

    def at(self, stage: Stage, name: str, now: float) -> "Job":
        """The same job in another stage, with the moment noted under `name`."""
        return replace(self, stage=stage, history=(*self.history, Stamp(name, now)))

    def stamped(self, *stamps: Stamp) -> "Job":
        """The same job with more moments in its history."""
        return replace(self, history=(*self.history, *stamps))

    def blobs(self) -> tuple[BlobId, ...]:
        """What is kept of it in blobs: its message, and what its stage has made."""
        stage: object = self.stage
        while isinstance(stage, Held):
            stage = stage.before
        match stage:
            case Answered(made) | Composed(made):
                return (self.message, made)
            case Sending(composed) | Sent(composed, _) | Bounced(composed):
                return (self.message, composed.message)
            case _:
                return (self.message,)

    def times(self, name: str) -> int:
        """How often it reached this moment."""
        return sum(stamp.name == name for stamp in self.history)


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
    return json.dumps({**_JOB.dump_python(job), "stage": _named(job.stage)})


def _named(stage: Stage) -> dict[str, object]:
    named = {"is": type(stage).__name__, **_STAGES[type(stage).__name__].dump_python(stage)}
    return {**named, "before": _named(stage.before)} if isinstance(stage, Held) else named


def decode(text: str) -> Job:
    """The job that `encode` wrote. Raises PermanentError when it is not one: another version may have words of its
    own."""
    try:
        raw = json.loads(text)
        return _JOB.validate_python({**raw, "stage": _stage(raw["stage"])})
    except (KeyError, TypeError, ValueError) as error:
        reason = f"this version of mailagent cannot read the record {text[:80]!r}: run the one that wrote it"
        raise PermanentError(reason, for_sender=False) from error


def _stage(raw: dict[str, Any]) -> Stage:
    before = {"before": _stage(raw["before"])} if raw["is"] == Held.__name__ else {}
    return _STAGES[raw["is"]].validate_python({**raw, **before})


_STAGES: dict[str, TypeAdapter[Stage]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Stage)}
_JOB: TypeAdapter[Job] = TypeAdapter(Job)

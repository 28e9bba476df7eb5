"""A mail in words for operators: its row in the queue, and its life with the moment of every stage."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from mailagent.core.job import Bounced, Dead, Held, Job, Merged, Received, Sent
from mailagent.core.operator import advice, is_uncertain
from mailagent.core.plain import one_line
from mailagent.ports import Listed


@dataclass(frozen=True, slots=True)
class Row:
    """One mail of the queue; `age` is in seconds."""

    id: str
    state: str
    age: float
    sender: str
    subject: str
    stage: str
    reason: str


def row(listed: Listed, now: float) -> Row:
    """The mail in short; nothing that a stranger wrote in it can move a cursor or break a line."""
    job = listed.job
    return Row(
        id=job.id,
        state=state(listed, now),
        age=round(now - job.history[0].at, 1) if job.history else 0.0,
        sender=one_line(job.sender, 60),
        subject=one_line(job.subject, 60),
        stage=type(job.stage).__name__,
        reason=one_line(_reason(job), 200),
    )


def state(listed: Listed, now: float) -> str:
    """What is going on with it."""
    if isinstance(listed.job.stage, Sent | Bounced | Merged | Held | Dead):
        return type(listed.job.stage).__name__.lower()
    if listed.at_work:
        return f"at work on {listed.holder}"
    doubt = "uncertain, " if is_uncertain(listed.job.stage) else ""
    return doubt + (f"again in {span(max(0.0, listed.due - now))}" if listed.due else "waits")


def _reason(job: Job) -> str:
    match job.stage:
        case Held(reason, _) | Dead(reason) | Bounced(_, reason):
            return reason
        case Received(refusal) if refusal:
            return "is told why it is not answered"
        case _ if job.attempts:
            return f"failed {job.attempts} times so far"
        case _:
            return ""


def life(listed: Listed, now: float) -> Iterator[str]:
    """Line by line: what it is, where it stands, what to do about it, and how long everything took."""
    job = listed.job
    about = f"job {job.id}, thread {job.thread}, attempts {job.attempts}, interrupted {job.interrupted}"
    yield f"{type(job.stage).__name__}: {one_line(job.subject, 200)!r} from {one_line(job.sender, 200)} ({about})"
    yield f"  now: {state(listed, now)}"
    if reason := _reason(job):
        yield f"  reason: {one_line(reason, 1000)}"
    if isinstance(job.stage, Sent):
        yield f"  the server said: {one_line(job.stage.response, 1000)}"
    if isinstance(job.stage, Merged):
        yield f"  answered by the reply to job {job.stage.into}"
    if todo := advice(job):
        yield f"  what to do: {todo}"
    before = None
    for stamp in job.history:
        took = f"+{span(stamp.at - before)}" if before is not None else ""
        moment = f"{datetime.fromtimestamp(stamp.at, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
        yield f"  {moment} UTC  {took:>9}  {stamp.name}"
        before = stamp.at


def span(seconds: float) -> str:
    """A length of time in its two largest units, or in seconds with a fraction below a minute."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

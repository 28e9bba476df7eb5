"""What a person may do with a mail: hold it, release it, have it answered again, settle what is uncertain."""

from dataclasses import replace

from mailagent.core.errors import PermanentError
from mailagent.core.job import Bounced, Dead, Held, Job, Received, Sending, Sent, Stage, Waiting


def held(job: Job, now: float) -> Job:
    """Out of the way until it is released. Each of these raises PermanentError with what to do instead."""
    if not isinstance(job.stage, Waiting):
        raise _no(job, "cannot be held")
    return job.at(Held("by an operator", job.stage), "held", now)


def released(job: Job, now: float) -> Job:
    """On its way again from where it was held; a reply that bounced is sent again as it is, to those who did not get
    it."""
    match job.stage:
        case Held(_, before) if isinstance(before, Waiting) and not is_uncertain(before):
            return _again(job, before, "released", now)
        case Bounced(composed, done=done):
            return _again(job, Sending(composed, 0, done) if done else composed, "released", now)
        case _:
            raise _no(job, "cannot be released")


def requeued(job: Job, now: float) -> Job:
    """To be answered again from the start; the new reply has a Message-ID of its own."""
    match job.stage:
        case Held(_, before) if not is_uncertain(before):
            return _again(job, before if isinstance(before, Received) else Received(), "requeued", now)
        case Dead() | Bounced():
            return _again(job, Received(), "requeued", now)
        case _:
            raise _no(job, "cannot be answered again")


def resolved(job: Job, was_sent: bool, now: float) -> Job:
    """With the word of an operator on whether the server took the reply in question; if not, it is sent again."""
    match job.stage:
        case Held(_, Sending(to=to, done=done) as sending) if to:
            done = (*done, to) if was_sent else done
            return _again(job, replace(sending, to="", done=done), "resolved", now)
        case _:
            raise _no(job, "is not uncertain")


def is_uncertain(stage: Stage) -> bool:
    """Whether nobody knows if the server took this reply, once no worker is at it."""
    return isinstance(stage, Sending) and bool(stage.to)


def advice(job: Job) -> str:
    """What an operator can do about it."""
    match job.stage:
        case Held(_, before) if is_uncertain(before):
            return (
                "ask the recipient, or look into the mail server's log; then "
                f"`mailagent resolve {job.id} --sent` or `--resend`"
            )
        case Held(_, Sent()):
            return f"mend what failed; then `mailagent requeue {job.id}` has it answered after all"
        case Held():
            return f"`mailagent release {job.id}` goes on where it stopped, `mailagent requeue {job.id}` begins again"
        case Bounced():
            return (
                f"`mailagent release {job.id}` sends the same reply again, `mailagent requeue {job.id}` makes another"
            )
        case Dead():
            return f"`mailagent requeue {job.id}` begins again"
        case _ if is_uncertain(job.stage):
            return "wait: the daemon looks for the reply in the Sent folder"
        case _:
            return ""


def _again(job: Job, stage: Waiting, name: str, now: float) -> Job:
    return replace(job.at(stage, name, now), attempts=0, interrupted=0)


def _no(job: Job, why: str) -> PermanentError:
    words = f"job {job.id} {why}: it is {type(job.stage).__name__}"
    return PermanentError(f"{words}; {todo}" if (todo := advice(job)) else words)

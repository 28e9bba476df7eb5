"""Which conversation a mail belongs to, and the fields that keep the reply in it."""

from itertools import islice

from mailagent.core.headers import MESSAGE_ID, MISSING_ID
from mailagent.core.values import Inbound, Thread

MAX_EVIDENCE = 50
MAX_REFERENCES_BYTES = 900
"""A References field longer than a line may be (RFC 5322 section 2.1.1) is dropped or folded badly by some servers."""


def evidence(inbound: Inbound) -> tuple[str, ...]:
    """The Message-IDs to look up, the nearest first: In-Reply-To, then References from right to left; 50 at most.

    Never the subject: it is guessed and shared too easily."""
    ids = (*inbound.in_reply_to, *reversed(inbound.references))
    return tuple(islice(dict.fromkeys(one for one in ids if MESSAGE_ID.fullmatch(one)), MAX_EVIDENCE))


def continues(inbound: Inbound, thread: Thread | None) -> bool:
    """True when the mail may continue this thread: Message-IDs get about, so its owner alone may."""
    return thread is not None and inbound.sender == thread.owner and not inbound.defects


def references_for(inbound: Inbound) -> tuple[str, ...]:
    """The References of the reply (RFC 5322 section 3.6.4): those of the mail, or its only In-Reply-To, then its own
    id; the first and the last eight of them, fewer when they are long."""
    before = inbound.references or (inbound.in_reply_to if len(inbound.in_reply_to) == 1 else ())
    earlier = [one for one in dict.fromkeys(before) if MESSAGE_ID.fullmatch(one) and one != inbound.message_id]
    ids = [*earlier, *answered(inbound)]
    if len(ids) > 9:
        ids = [ids[0], *ids[-8:]]
    while len(" ".join(ids)) >= MAX_REFERENCES_BYTES:
        del ids[1 if len(ids) > 2 else 0]
    return tuple(ids)


def answered(inbound: Inbound) -> tuple[str, ...]:
    """The id for In-Reply-To: that of the mail; none when it came without one."""
    known = MESSAGE_ID.fullmatch(inbound.message_id) and not inbound.message_id.endswith(MISSING_ID)
    return (inbound.message_id,) if known else ()

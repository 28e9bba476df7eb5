"""Which conversation a mail belongs to, and the fields that keep the reply in it."""

from collections.abc import Sequence
from itertools import islice

from mailagent.core.headers import MESSAGE_ID, MISSING_ID
from mailagent.core.token import Key, read, tokens_in
from mailagent.core.values import Inbound, Thread, ThreadId

MAX_EVIDENCE = 50
MAX_REFERENCES_BYTES = 900
"""A References field longer than a line may be (RFC 5322 section 2.1.1) is dropped or folded badly by some servers."""


def claimed(inbound: Inbound, own: str, keys: Sequence[Key]) -> ThreadId | None:
    """The thread that a token in one of our addresses proves for this sender: the first evidence there is, before
    Message-IDs, which servers rewrite. None without a token, and for a sender that cannot be told."""
    if inbound.defects:
        return None
    proven = (
        read(token, keys, inbound.sender) for token in tokens_in((*inbound.recipients, *inbound.delivered_to), own)
    )
    return next((thread for thread in proven if thread), None)


def evidence(inbound: Inbound) -> tuple[str, ...]:
    """The Message-IDs to look up, the nearest first: In-Reply-To, then References from right to left; 50 at most.

    Never the subject: it is guessed and shared too easily."""
    ids = (*inbound.in_reply_to, *reversed(inbound.references))
    return tuple(islice(dict.fromkeys(one for one in ids if MESSAGE_ID.fullmatch(one)), MAX_EVIDENCE))


def continues(inbound: Inbound, thread: Thread | None) -> bool:
    """True when the mail may continue this thread: Message-IDs get about, so its owner alone may."""
    if thread is None or inbound.defects:
        return False
    return inbound.sender == thread.owner or inbound.sender in thread.participants


def goes_on(inbound: Inbound, domain: str) -> bool:
    """Whether the mail answers one of ours (compose.reply_id), known or not."""
    return any(one.startswith("<ma.") and one.endswith(f"@{domain}>") for one in evidence(inbound))


def references_for(inbound: Inbound, also: Sequence[str] = ()) -> tuple[str, ...]:
    """The References of the reply (RFC 5322 section 3.6.4): those of the mail, or its only In-Reply-To, then the ids
    of the other mails that it answers (`also`), then the mail's own; the first and the last eight of them, more where
    more are answered, fewer when they are long."""
    before = inbound.references or (inbound.in_reply_to if len(inbound.in_reply_to) == 1 else ())
    answers = [*dict.fromkeys(one for one in also if _known(one) and one != inbound.message_id), *answered(inbound)]
    earlier = [one for one in dict.fromkeys(before) if MESSAGE_ID.fullmatch(one) and one != inbound.message_id]
    ids = [*(one for one in earlier if one not in answers), *answers]
    last = max(8, len(answers))
    if len(ids) > last + 1:
        ids = [ids[0], *ids[-last:]]
    while len(" ".join(ids)) >= MAX_REFERENCES_BYTES:
        del ids[1 if len(ids) > 2 else 0]
    return tuple(ids)


def answered(inbound: Inbound) -> tuple[str, ...]:
    """The id for In-Reply-To: that of the mail; none when it came without one."""
    return (inbound.message_id,) if _known(inbound.message_id) else ()


def _known(message_id: str) -> bool:
    return bool(MESSAGE_ID.fullmatch(message_id)) and not message_id.endswith(MISSING_ID)

"""What would become of a message, told without the store: for people who want to know why."""

from collections.abc import Sequence
from dataclasses import dataclass

from mailagent.core.quota import too_large
from mailagent.core.screen import Rule, nothing_to_do, proven, rule_for, screen
from mailagent.core.thread import claimed, evidence
from mailagent.core.token import Key, read, tokens_in
from mailagent.core.values import Accept, Ignore, Inbound, ThreadId, Verdict


@dataclass(frozen=True, slots=True)
class House:
    """Whom the settings let in, and how they are known."""

    rules: Sequence[Rule]
    own: str
    authserv_id: str
    keys: Sequence[Key]
    most_mb: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """`unless_known` is True where the verdict would be Accept if one of the Message-IDs belongs to a thread of the
    sender; `tokens` are those in our addresses, each with the thread that it proves for the sender."""

    verdict: Verdict
    proven: bool
    unless_known: bool
    tokens: tuple[tuple[str, ThreadId | None], ...]
    claimed: ThreadId | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """A message, the Message-IDs by which its thread is looked up, and, where the settings are known, the judgement."""

    inbound: Inbound
    ids: tuple[str, ...]
    judgement: Judgement | None


def inspected(inbound: Inbound, size: int, house: House | None) -> Inspection:
    """What intake makes of this message, but for what only the store knows: threads, and what was asked before."""
    ids = evidence(inbound)
    return Inspection(inbound, ids, _judged(inbound, size, ids, house) if house else None)


def _judged(inbound: Inbound, size: int, ids: Sequence[str], house: House) -> Judgement:
    thread = claimed(inbound, house.own, house.keys)
    verdict, unless_known = screen(inbound, house.rules, house.own, house.authserv_id), False
    rule = rule_for(inbound, house.rules)
    if inbound.bounces:
        verdict = Ignore("it says that a mail came back; if that was a reply of ours, the reply is marked")
    elif isinstance(verdict, Accept) and rule:
        large = too_large(size, rule, house.most_mb)
        refusal = nothing_to_do(inbound, follow_up=thread is not None)
        unless_known = bool(refusal and ids) and not large and nothing_to_do(inbound, follow_up=True) is None
        verdict = large or refusal or verdict
    return Judgement(
        verdict=verdict,
        proven=proven(inbound, house.authserv_id),
        unless_known=unless_known,
        tokens=tuple(
            (token, read(token, house.keys, inbound.sender)) for token in tokens_in(inbound.recipients, house.own)
        ),
        claimed=thread,
    )

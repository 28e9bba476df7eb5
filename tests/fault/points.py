"""The fifteen points at which a crash is told apart, and which calls of the flow, or moments of a peer, they are."""

from dataclasses import dataclass
from typing import Literal

Fault = Literal["kill", "hang", "error", "temporary"]
FAULTS: tuple[Fault, ...] = ("kill", "hang", "error", "temporary")
PEERS = {
    "during FETCH": "the mailbox's server is half-way through the message",
    "before the end of DATA": "the mail server waits for the rest of the reply",
    "after the end of DATA": "the mail server has the reply and has not said so",
    "after 250": "the mail server has said so",
    "mid turn": "the model was asked for the second time",
}
"""Moments inside an adapter, which its peer brings about; an error is then a cut connection."""

POINTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("during FETCH", ("before inbox.heads", "during FETCH")),
    (
        "fetched, not yet stored",
        ("after inbox.heads", "after parser.parse", "after blobs.put", "before jobs.take_over"),
    ),
    ("stored, not yet filed", ("after jobs.take_over", "after ledger.took", "before inbox.file")),
    ("filed", ("after inbox.file",)),
    ("announced, not yet leased", ("before jobs.claim:turns",)),
    (
        "leased, workspace and sandbox in the making",
        (
            "after jobs.claim:turns",
            "after workspaces.open",
            "after workspaces.add",
            "before agent.begin",
            "after agent.begin",
        ),
    ),
    ("mid turn", ("after session.profile", "before session.ask", "mid turn")),
    ("turn done, not yet in the workspace's manifest", ("after session.ask", "before agent.end")),
    ("transcript stored, manifest not", ("after agent.end", "after workspaces.collect", "before workspaces.snapshot")),
    ("laid out, not yet in the outbox", ("after workspaces.snapshot", "after jobs.save", "before jobs.hand_over")),
    ("in the outbox", ("after jobs.hand_over", "before jobs.claim:delivery", "after jobs.claim:delivery")),
    ("sending, before the end of DATA", ("before submission.send", "before the end of DATA")),
    (
        "after the end of DATA, not yet recorded",
        ("after the end of DATA", "after 250", "after submission.send"),
    ),
    ("recorded, not yet in Sent", ("before submission.file_sent",)),
    ("in Sent", ("after submission.file_sent", "before jobs.finish")),
)
"""Numbered from 1 in this order."""

MAY_REPEAT = 13
"""The one point at which nobody can know: the same reply may be handed over twice there."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place to fail: a call of the flow, the `nth` of its kind, or a moment of a peer."""

    where: str
    nth: int = 1

    @property
    def peer(self) -> bool:
        return self.where in PEERS

    @property
    def number(self) -> int:
        """Which of the fifteen it is; 0 for others between two of them."""
        return next((n for n, (_, calls) in enumerate(POINTS, 1) if self.where in calls), 0)


SELDOM = ("jobs.counts", "jobs.renew", "jobs.repair")
"""Made by the clock alone: none of them can be counted on."""


def once(where: str) -> bool:
    """Whether a call comes as often as time goes by, so that to number more than the first means nothing."""
    return where.split()[1] in (
        "jobs.claim:turns",
        "jobs.claim:delivery",
        "jobs.cursor",
        "jobs.depth",
        "inbox.changed",
        "inbox.open",
        "inbox.uids_after",
    )

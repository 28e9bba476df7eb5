"""What the flow asks of the world, as Protocols; adapters/ keeps these promises, tests/fakes.py does so in memory."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from mailagent.core.job import Job
from mailagent.core.quota import Account, Payer, Spend, Spent
from mailagent.core.screen import Kind
from mailagent.core.values import (
    BlobId,
    Inbound,
    JobId,
    Mailbox,
    Outcome,
    OutFile,
    Outgoing,
    Profile,
    RawMessage,
    Thread,
    ThreadId,
    Turn,
)

Folder = Literal["processed", "refused", "held"]
"""Where a handled message is filed, for people to see; nothing depends on it."""


HEAD_BYTES = 64 * 1024 + 100
"""As much as a header may have, and enough more to tell one that has too much."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is asked of a message first: its size in bytes, and its first HEAD_BYTES bytes, mostly the whole of it."""

    uid: int
    size: int
    data: bytes

    @property
    def is_whole(self) -> bool:
        """Whether `data` is all there is."""
        return len(self.data) < HEAD_BYTES


class Inbox(Protocol):
    """The mailbox that is watched. Every method raises TemporaryError when the server is away or odd."""

    async def open(self) -> Mailbox:
        """Connect (again) and select the folder; returns which mailbox the UIDs now belong to."""

    async def first_cursor(self, start: str, now: float) -> tuple[int, float]:
        """Where the cursor of a mailbox never seen begins, by config mail.start: "all" 0, "new" the highest UID,
        "unseen" just below the oldest unread message (a cursor has no holes: what was read above it comes along); and
        when the mail above it began to arrive, in Unix seconds, `now` where there is none."""

    async def cursor_at(self, moment: float) -> int:
        """Just below the first message that arrived then (Unix seconds) or later; else the highest UID."""

    async def uids_after(self, uid: int) -> list[int]:
        """UIDs of the messages above `uid`, ascending."""

    async def heads(self, uids: Sequence[int]) -> list[Head]:
        """The beginnings of these messages, in this order, unread state untouched; what is gone is left out."""

    async def fetch(self, uids: Sequence[int], *, now: float) -> list[RawMessage]:
        """These messages, in this order, unread state untouched; what is gone is left out."""

    async def file(self, uids: Sequence[int], folder: Folder) -> None:
        """Mark the messages as handled and move them if so configured; display only."""

    async def changed(self, timeout: float) -> None:
        """Return when the server hints at news (IDLE, RFC 2177) or after `timeout` seconds; a hint, never a promise."""

    async def close(self) -> None:
        """Log out; never raises."""


class Parser(Protocol):
    """core.parse behind a wall: memory and CPU are limited."""

    async def parse(self, raw: bytes) -> Inbound:
        """The message understood. PermanentError for what cannot be, within the limits, in one attempt."""


class Blobs(Protocol):
    """Content-addressed, durable bytes: a raw message, an outcome, a reply, a workspace's files. Every method raises
    TemporaryError when the disk is full or the store away."""

    async def identity(self) -> str:
        """Which store this is: the same text on every host that shares it. ConfigError when it cannot be used."""

    async def put(self, data: bytes) -> BlobId:
        """Store and return the SHA-256; durable when it returns. What is put again counts as put now."""

    async def get(self, blob: BlobId) -> bytes:
        """The bytes. PermanentError when they are not there or do not match their name."""

    async def older(self, before: float) -> Mapping[BlobId, int]:
        """All that was last put before this moment (Unix seconds), with sizes in bytes."""

    async def drop(self, blobs: Collection[BlobId], before: float) -> None:
        """Remove these, but what was put since `before`."""


@dataclass(frozen=True, slots=True)
class CursorMove:
    """Advance the cursor of a mailbox from `seen` to `uid`, but only if it still stands at `seen`."""

    mailbox: Mailbox
    seen: int
    uid: int


Lane = Literal["turns", "delivery"]
"""The two queues: jobs waiting for the agent, and the outbox."""
LANES: tuple[Lane, ...] = ("turns", "delivery")


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on one thread in one lane: its first job, and the owner:fence token every write must show."""

    lane: Lane
    thread: ThreadId
    token: str
    job: Job


@dataclass(frozen=True, slots=True)
class Listed:
    """A job as an operator sees it; `at_work` when it is the one that a worker has; `due`, in Unix seconds of the
    store, when its thread is delayed; `holder` is the worker's host and process."""

    job: Job
    at_work: bool
    due: float | None
    holder: str = ""


class Jobs(Protocol):
    """The job queue. Every method raises TemporaryError when the store is away; every write with a claim raises
    LeaseLostError when another worker holds the thread."""

    async def cursor(self, mailbox: Mailbox) -> int | None:
        """The last UID taken over, None for a mailbox never seen."""

    async def since(self, mailbox: Mailbox, now: float) -> float | None:
        """Since when the mail of this folder has to be taken over, under whatever UIDVALIDITY (Unix seconds), but no
        longer ago than it is known which was; None for a folder never seen."""

    async def begin(self, mailbox: Mailbox, uid: int, since: float) -> int:
        """Set the cursor of a mailbox never seen, and of a folder never seen since when its mail has to be taken over;
        returns where the cursor stands."""

    async def accept(self, job: Job, move: CursorMove | None) -> Literal["new", "known", "rewound"]:
        """Store the job, remember its Message-ID and its colleagues for its thread, and move the cursor, in one step.

        "known": this job was accepted before (the cursor moves all the same); "rewound": the cursor is elsewhere,
        nothing was stored."""

    async def take_over(self, jobs: Sequence[Job], move: CursorMove) -> Collection[JobId] | None:
        """Accept these jobs in their order and move the cursor past the messages they are for, in one step; returns
        those that are new. None when the cursor stands elsewhere: nothing was stored."""

    async def thread_of(self, message_ids: Sequence[str]) -> Thread | None:
        """The thread in which the first known of these Message-IDs was sent or received."""

    async def thread(self, thread: ThreadId) -> Thread | None:
        """The thread, None when unknown."""

    async def claim(self, lane: Lane, wait: float, but: Collection[ThreadId] = ()) -> Claim | None:
        """Lease the next thread with work in this lane; None when there was none for `wait` seconds. First those whose
        worker fell silent, `but` those that the caller himself is still at work on, after the store was away; then, by
        turns, those of every sender who has any: whoever is new waits for at most one thread of each other sender."""

    async def renew(self, claim: Claim) -> None:
        """Extend the lease. One that ran out is as good as before, as long as nobody took the thread."""

    async def save(self, claim: Claim, job: Job) -> None:
        """Store the job's new stage; it stays first in this lane."""

    async def waiting(self, claim: Claim) -> tuple[Job, ...]:
        """The jobs behind the claimed one in its thread and lane, in their order."""

    async def hand_over(self, claim: Claim, job: Job, merged: Sequence[Job] = ()) -> None:
        """The turn is over: store the composed job, count the turn, remember the reply's Message-ID for the thread, put
        the job into the delivery lane, take it out of this one and give the lease back, in one step; likewise store
        and take out those that it `merged`."""

    async def finish(self, claim: Claim, job: Job) -> None:
        """Store the job's last stage, take it out of its lane, give the lease back. An ending that people must see is
        listed under its place (core.job.PLACES). Where it is Sent and came back already, that is stored instead."""

    async def retry(self, claim: Claim, job: Job, delay: float) -> None:
        """Give the lease back; the thread is due again after `delay` seconds. `job.attempts` is stored."""

    async def find(self, key: str) -> Job | None:
        """The job with this id or this Message-ID (received or sent)."""

    async def bounced(self, message_id: str, reason: str, now: float) -> Job | None:
        """Note that the reply with this Message-ID came back, and return the job as it ends; None when no reply of ours
        that was sent, or is being sent, has it."""

    async def change(self, job: Job, after: Job) -> bool:
        """For operators: store `after`, the same job in another stage, if it is still stored as `job` and no worker has
        its thread; False when that is not so. With a stage of a lane, a job that is in none is put back at the end of
        that lane; with an ending, a waiting job is taken out of its lane. From one lane to another is never."""

    async def depth(self) -> int:
        """How many jobs wait for the agent, those at work included; asked often."""

    async def counts(self) -> dict[str, int]:
        """How many jobs there are in each place: turns, delivery, and the endings that people must see; and how many
        threads are delayed: later."""

    async def listed(self, place: str, limit: int) -> tuple[Listed, ...]:
        """The jobs of one place, at most `limit`, those first that have been there longest; with place "later" the jobs
        that delay their threads, those first that are due first."""

    async def check(self) -> list[str]:
        """What does not agree in the store, each in plain words; changes nothing and disturbs nobody."""

    async def repair(self) -> int:
        """The janitor: mend what `check` finds after a loss of data; returns how much there was."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The directory of one thread on this host: `path` holds in/, work/ and out/; `token` is the lease of the turn that
    works in it, which every write to the store must show."""

    thread: ThreadId
    path: str
    token: str
    lost: bool = False
    """There were files, and they cannot be had any more: the thread starts anew. Also when this turn is tried again."""


class Workspaces(Protocol):
    """A directory per thread, and its snapshots."""

    async def open(self, thread: ThreadId, token: str) -> Workspace:
        """The thread's workspace, restored from its checkpoint when this host has none, or an old one."""

    async def add(self, workspace: Workspace, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Write these (name, bytes) into in/, read-only, beside what is there; returns the names given."""

    async def clear_out(self, workspace: Workspace, turn: int) -> None:
        """Empty out/ for this turn (counted from 1): what the turn before it made moves to work/earlier/N. A turn that
        is tried again finds its out/ as it left it."""

    async def collect(self, workspace: Workspace) -> tuple[OutFile, ...]:
        """The regular files of out/, checked: no links, no devices, within the limits of size and number."""

    async def snapshot(self, workspace: Workspace) -> None:
        """Make the workspace's present state durable, as one checkpoint with the transcript's. The last that a turn
        does with it."""

    def close(self, thread: ThreadId) -> None:
        """The turn is over, whatever way it ended, or was not even begun."""

    async def forget(self, before: float) -> int:
        """Remove the directories on this host that no checkpoint goes on from and no turn has open, untouched since
        `before` (Unix seconds); returns how many."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a thread: its mails, how many entries its transcript has, and whether it has work."""

    thread: ThreadId
    owner: str
    jobs: tuple[Job, ...]
    entries: int
    works: bool


class Retention(Protocol):
    """What is kept, and how it is forgotten. Every method raises TemporaryError when the store is away."""

    def threads(self) -> AsyncIterator[Kept]:
        """All that there are; it looks at everything."""

    async def forget(self, thread: ThreadId) -> bool:
        """Forget it, in one step; False when it has work."""

    async def named(self, but: Collection[ThreadId] = ()) -> Collection[BlobId]:
        """Every blob that a mail or a checkpoint names, of all threads but these; it looks at everything."""

    async def turn_to_sweep(self, seconds: float) -> bool:
        """Whether nobody was told so for this long."""


class Session(Protocol):
    """One sandbox with one agent conversation in it, for the length of a turn."""

    @property
    def known(self) -> bool:
        """Whether the conversation goes on: the agent was asked before in this thread."""

    async def profile(self) -> Profile:
        """Read the attachments inside the sandbox. PermanentError when the profile script cannot run on them."""

    async def ask(self, turn: Turn) -> Outcome:
        """Let the agent answer; `Outcome.files` is empty. TemporaryError when CLI or model failed and may recover."""


class Agent(Protocol):
    """Opens sessions: a new one for a new thread, the same conversation for a known one."""

    def session(
        self, workspace: Workspace, payer: Payer, skills: Sequence[str]
    ) -> AbstractAsyncContextManager[Session]:
        """A sandbox on this workspace, with these skills or all (an empty sequence), whose model requests the payer is
        charged for; gone, with everything in it, when the context ends."""


class Ledger(Protocol):
    """What each sender has used and was told. Every method raises TemporaryError when the store is away; `now` is in
    Unix seconds, and a day is one of UTC. Whatever is told twice of one job counts once, at its first time."""

    async def spent(self, senders: Collection[str], now: float) -> dict[str, Spent]:
        """What each of these senders has used on this day and in this hour."""

    async def took(self, jobs: Sequence[tuple[str, JobId]], now: float) -> None:
        """Mails of these senders were taken over, to be answered by the agent."""

    async def charge(
        self, request: str, accounts: Sequence[Account], most: Spend, now: float
    ) -> tuple[Account, Spend] | None:
        """A request to the model may use the most: charged to all of these accounts before it is made, so that it is
        not lost if we are. Charged to none when one of them has no room left: that one, and what it has used."""

    async def settle(self, request: str, used: Spend) -> None:
        """The charged request used so much, and not the most; told again, nothing changes."""

    async def may_tell(self, sender: str, kind: Kind, job: JobId, now: float) -> bool:
        """Whether this job may tell the sender of a refusal of this kind: the first one that asks on a day may, however
        often it asks, and no other."""

    async def overall_last_hour(self, now: float) -> int:
        """How many mails were taken over in the hour that ends now, whoever sent them."""


class Submission(Protocol):
    """The way out (RFC 6409)."""

    async def send(self, outgoing: Outgoing) -> str:
        """The server's answer to DATA. PermanentError for 5xx; TemporaryError for 4xx and lost connections, uncertain
        when it may have taken the mail: the connection was lost after DATA began."""

    async def was_sent(self, outgoing: Outgoing) -> bool:
        """Whether the server's own copy in the Sent folder proves that it took this message for somebody; where there
        is none, nothing is proven: not all servers keep one. TemporaryError when the folder is out of reach."""

    async def file_sent(self, outgoing: Outgoing) -> None:
        """Append to the Sent folder unless it is there or the server keeps one itself."""


class Room(Protocol):
    """Disk or memory."""

    async def free(self) -> bool:
        """Whether there is room for more. TemporaryError when nobody can say."""


class Clock(Protocol):
    """Time, as an argument."""

    def now(self) -> float:
        """Unix seconds."""

"""The only place that puts the parts together: builds them from the settings, starts the loops, stops them in order."""

import asyncio
import fcntl
import logging
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TextIO, TypeVar

from mailagent import stores
from mailagent.adapters import boundary, bubblewrap, cgroups, host, systemd
from mailagent.adapters.checkpoints import RedisCheckpoints
from mailagent.adapters.claude import ClaudeAgent, Settings
from mailagent.adapters.disk import Disk
from mailagent.adapters.dkim import DkimCheck
from mailagent.adapters.gateway import Gateway
from mailagent.adapters.imap import ImapInbox
from mailagent.adapters.keys import token_keys
from mailagent.adapters.ledger import RedisLedger
from mailagent.adapters.lmtp import LmtpServer
from mailagent.adapters.memory import Memory
from mailagent.adapters.parser import ChildParser
from mailagent.adapters.redis import Redis, RedisJobs
from mailagent.adapters.redis_server import PrivateRedis
from mailagent.adapters.retention import RedisRetention
from mailagent.adapters.smtp import SmtpSubmission
from mailagent.adapters.spool import Spool, SpoolInbox
from mailagent.adapters.transcripts import RedisTranscripts
from mailagent.adapters.workspaces import DiskWorkspaces
from mailagent.config import Config
from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.core.job import Job
from mailagent.core.policy import Host, Policy
from mailagent.core.quota import Limits
from mailagent.core.render import Style
from mailagent.core.screen import Rule
from mailagent.flow.admission import Admission
from mailagent.flow.delivery import Delivery
from mailagent.flow.intake import Intake
from mailagent.flow.reading import Reading
from mailagent.flow.retention import Sweep
from mailagent.flow.turns import Turns
from mailagent.flow.upkeep import Upkeep, found
from mailagent.flow.worker import Worker
from mailagent.ports import Blobs, Claim, Clock, Inbox, Lane, Submission
from mailagent.stores import DAY

log = logging.getLogger(__name__)

T = TypeVar("T")
Step = Callable[[Claim], Awaitable[None]]
GiveUp = Callable[[Claim, str, bool], Awaitable[None]]
Enough = Callable[[Job], bool]

DELIVERY_PLACES = 4
THREADS = 32
JANITOR_SECONDS = 30.0
LOCK_SECONDS = 1.0
HOUR = 3600


class Wrap(Protocol):
    """Comes between the flow and one of its ports, known by name: tests let daemons die there."""

    def __call__(self, name: str, port: T) -> T: ...


class SystemClock(Clock):
    """Keeps ports.Clock."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()


@dataclass(frozen=True, slots=True)
class Parts:
    """What both the daemon and `mailagent ask` need to answer one mail."""

    config: Config
    jobs: RedisJobs
    blobs: Blobs
    parser: ChildParser
    clock: Clock
    turns: Turns
    ledger: RedisLedger
    sweep: Sweep
    store: PrivateRedis
    """Not started where a server is configured."""


async def run(config: Config, wrap: Wrap = lambda _, port: port) -> None:
    """Serve the mailbox until SIGTERM or SIGINT. ConfigError when something that is needed is missing."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # Threads wait for mail servers, for minutes: there must be some left for files, however few processors there are.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    async with systemd.starting(stopping) as started, build(config) as bare, _inboxes(config) as inboxes:
        parts = _wrapped(bare, wrap)
        try:
            intakes = [watch(parts, wrap("inbox", inbox)) for inbox in inboxes]
            await _serve(parts, intakes, wrap("submission", _submission(config)), started, stopping)
        finally:
            systemd.notify("STOPPING=1")


@asynccontextmanager
async def _inboxes(config: Config) -> AsyncIterator[list[Inbox]]:
    """Where mail comes in: the IMAP mailbox, and the spool of the LMTP server where that listens."""
    async with AsyncExitStack() as stack:
        inboxes: list[Inbox] = [ImapInbox(config.imap, config.mail, config.secrets.imap_password.get_secret_value())]
        if config.lmtp.listen:
            spool = Spool(Path(config.storage.state_dir) / "spool")
            server = LmtpServer(config.lmtp, config.mail, spool, DkimCheck(), room(config))
            await server.start()
            stack.push_async_callback(server.stop)
            inboxes.append(SpoolInbox(spool))
            forgetting = asyncio.create_task(_forget(spool, config.storage.retention_days * DAY))
            stack.callback(forgetting.cancel)
        for inbox in inboxes:
            stack.push_async_callback(inbox.close)
        yield inboxes


@asynccontextmanager
async def build(config: Config) -> AsyncIterator[Parts]:
    """Everything started and checked; everything stopped, in reverse order, at the end."""
    state, runtime = Path(config.storage.state_dir), Path(config.storage.runtime_dir)
    parts = parts_on_host(config)
    async with AsyncExitStack() as stack:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.enter_context(alone(state / "lock"))
        _sweep(state, runtime)
        await check_sandbox(config, parts)
        client, store = await stack.enter_async_context(stores.client(config))
        transcripts = RedisTranscripts(client, retention_seconds=config.storage.retention_days * DAY)
        ledger = RedisLedger(client, thread_seconds=config.storage.retention_days * DAY)
        key = config.secrets.anthropic_api_key.get_secret_value()
        gateway = Gateway(config.model, key, limits(config), ledger)
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        parser = ChildParser()
        await parser.start()
        stack.push_async_callback(parser.close)
        queue, kept = stores.jobs(config, client), stores.blobs(config)
        await queue.belong_to(await kept.identity())
        workspaces = _workspaces(config, kept, client)
        agent = ClaudeAgent(_settings(config, parts, runtime), bubblewrap, gateway, transcripts, workspaces)
        retention = RedisRetention(client, kept)
        yield _parts(config, queue, kept, workspaces, retention, parser, agent, ledger, store)


def _parts(
    config: Config,
    jobs: RedisJobs,
    blobs: Blobs,
    workspaces: DiskWorkspaces,
    retention: RedisRetention,
    parser: ChildParser,
    agent: ClaudeAgent,
    ledger: RedisLedger,
    store: PrivateRedis,
) -> Parts:
    clock, state, secret = SystemClock(), Path(config.storage.state_dir), config.secrets.token_key.get_secret_value()
    turns = Turns(
        jobs=jobs,
        blobs=blobs,
        parser=parser,
        workspaces=workspaces,
        agent=agent,
        clock=clock,
        style=Style(_shared("reply.html"), _shared("reply.css")),
        sender=config.mail.address,
        sender_name=config.mail.name,
        notice=config.model.notice,
        turn_seconds=config.agent.turn_seconds,
        rules=[Rule(**rule.model_dump()) for rule in config.allow],
        keys=token_keys(secret, state) if config.mail.plus_addressing else (),
    )
    return Parts(config, jobs, blobs, parser, clock, turns, ledger, Sweep(retention, blobs, workspaces, clock), store)


def _workspaces(config: Config, blobs: Blobs, client: Redis) -> DiskWorkspaces:
    return DiskWorkspaces(
        Path(config.storage.state_dir) / "threads",
        blobs,
        RedisCheckpoints(client, retention_seconds=config.storage.retention_days * DAY),
        max_bytes=host.limits(config.sandbox).disk_bytes,
        max_out_bytes=int(config.sandbox.max_out_mb * 1e6),
        max_out_files=config.sandbox.max_out_files,
    )


def _wrapped(parts: Parts, wrap: Wrap) -> Parts:
    """The parts with something between the flow and every port."""
    jobs, blobs, parser = wrap("jobs", parts.jobs), wrap("blobs", parts.blobs), wrap("parser", parts.parser)
    turns = replace(
        parts.turns,
        jobs=jobs,
        blobs=blobs,
        parser=parser,
        workspaces=wrap("workspaces", parts.turns.workspaces),
        agent=wrap("agent", parts.turns.agent),
    )
    return replace(parts, jobs=jobs, blobs=blobs, parser=parser, turns=turns, ledger=wrap("ledger", parts.ledger))


def _settings(config: Config, parts_on_host: Host, runtime: Path) -> Settings:
    return Settings(config.model, config.agent, config.sandbox, parts_on_host, _shared("system-prompt.md"), runtime)


def watch(parts: Parts, inbox: Inbox) -> Intake:
    """What takes over the mail of one inbox."""
    config, turns, jobs, clock = parts.config, parts.turns, parts.jobs, parts.clock
    mail, most = config.mail, limits(config)
    reading = Reading(
        inbox, parts.parser, parts.blobs, clock, turns.rules, mail.address, mail.authserv_id, mail.max_message_mb
    )
    admission = Admission(
        jobs, parts.ledger, turns.rules, mail.address, most, mail.max_message_mb, turns.keys, mail.cc == "allowed"
    )
    return Intake(
        inbox,
        reading,
        admission,
        jobs,
        parts.ledger,
        clock,
        mail.start,
        config.imap.idle_seconds,
        most.mails_per_hour,
        most.waiting_mails,
        room(config),
    )


def room(config: Config) -> Disk:
    """The disk of the state directory."""
    return Disk(Path(config.storage.state_dir), config.storage.min_free_mb)


def limits(config: Config) -> Limits:
    """What holds for everybody."""
    return Limits(**config.limits.model_dump())


def _submission(config: Config) -> Submission:
    secret = config.secrets
    return SmtpSubmission(
        config.smtp, config.imap, secret.smtp_password.get_secret_value(), secret.imap_password.get_secret_value()
    )


async def _forget(spool: Spool, after: float) -> None:
    """Remove handled mail from the spool when it is old enough."""
    while True:
        try:
            await asyncio.to_thread(spool.forget, time.time() - after)
        except OSError as error:
            log.warning("spool: %s", error)
        await asyncio.sleep(HOUR)


async def _serve(
    parts: Parts, intakes: Sequence[Intake], submission: Submission, started: asyncio.Event, stopping: asyncio.Event
) -> None:
    """All loops until `stopping`; a loop that ends by itself has failed, and the daemon with it."""
    log.info("found: %s", await found(parts.jobs))
    open_yet = [asyncio.Event() for _ in intakes]
    watching = [intake.run(opened.set) for intake, opened in zip(intakes, open_yet, strict=True)]
    upkeep = (Upkeep(parts.jobs, JANITOR_SECONDS, _tell).run(), parts.sweep.run())
    loops = (*watching, _ready(open_yet, started), *upkeep, systemd.pet(), _store_ended(parts))
    endless = [asyncio.create_task(loop) for loop in loops]
    working = asyncio.create_task(work(parts, submission, stopping))
    try:
        done, _ = await asyncio.wait({working, *endless}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        working.cancel()
        left = set(endless)
        while left:  # one cancellation may be swallowed, see flow/worker.py
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=1.0)
        await asyncio.gather(working, return_exceptions=True)


async def work(parts: Parts, submission: Submission, stopping: asyncio.Event) -> None:
    """Turns and delivery until `stopping`: first the turns drain, then what they left in the outbox is sent."""
    agent, turns_over = parts.config.agent, asyncio.Event()
    smtp, address = parts.config.smtp, parts.config.mail.address
    delivery = Delivery(
        parts.jobs, parts.blobs, submission, parts.clock, address, smtp.uncertain_seconds, smtp.on_uncertain
    )
    turns = _worker(parts, "turns", parts.turns.step, parts.turns.give_up, lambda job: job.attempts >= agent.attempts)
    turns = replace(turns, room=Memory())
    outbox = _worker(parts, "delivery", delivery.step, delivery.give_up, delivery.enough)
    turning = asyncio.create_task(turns.run(agent.max_sessions, stopping, agent.drain_seconds))
    sending = asyncio.create_task(outbox.run(DELIVERY_PLACES, turns_over, agent.drain_seconds))
    try:
        done, _ = await asyncio.wait({turning, sending}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:  # delivery ends before the turns by a fault only, and the daemon with it
            task.result()
        turns_over.set()
        await sending
    finally:
        for task in (turning, sending):
            task.cancel()
        await asyncio.gather(turning, sending, return_exceptions=True)


def _worker(parts: Parts, lane: Lane, step: Step, give_up: GiveUp, enough: Enough) -> Worker:
    config = parts.config
    seconds = (config.agent.retry_seconds, config.redis.lease_seconds / 3)
    return Worker(parts.jobs, parts.clock, lane, step, give_up, enough, *seconds)


async def _store_ended(parts: Parts) -> None:
    """The private Redis ends by itself when its disk is full: then nothing can be kept, and nothing may be taken."""
    if parts.config.redis.url:
        await asyncio.Event().wait()
    await parts.store.wait()
    raise TemporaryError("the private Redis ended; its log is in the state directory. Is the disk full?")


def _tell(line: str) -> None:
    systemd.notify(f"STATUS={line}")


async def _ready(open_yet: Sequence[asyncio.Event], started: asyncio.Event) -> None:
    """Say that mailbox, Redis and sandbox are good, as soon as every inbox is open."""
    for opened in open_yet:
        await opened.wait()
    started.set()
    systemd.notify("READY=1")
    log.info("ready")
    await asyncio.Event().wait()


def parts_on_host(config: Config) -> Host:
    """What every sandbox here is made of, with the control groups that were handed to this process."""
    return replace(host.parts(config), control_groups=str(cgroups.delegated() or ""))


async def check_sandbox(config: Config, parts: Host) -> Sequence[str]:
    """Start one before any stranger's file is there, and try what must not work in it; returns what was tried."""
    with tempfile.TemporaryDirectory(prefix="trial-") as trial:
        for name in ("in", "work", "out"):
            Path(trial, name).mkdir()
        return await boundary.check(Policy(parts, trial, "", host.limits(config.sandbox)))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the state directory; ConfigError when another process does, and for longer than fsck, which tries the lock
    (`commands.leftovers`): systemd does not start us again after one."""
    with path.open("w") as file:
        end = time.monotonic() + LOCK_SECONDS
        while not _locked(file):
            if time.monotonic() > end:
                raise ConfigError(f"{path.parent} is in use by another mailagent: stop it first")
            time.sleep(0.05)
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(state: Path, runtime: Path) -> None:
    """Make our directories, and remove what a crash left: sockets, and the SDK's copies of resumed transcripts, which
    lie in TMPDIR: below the state directory, since a private /tmp is gone after a restart."""
    temporary = state / "tmp"
    for command in (["chmod", "-R", "u+rwX", "--"], ["rm", "-rf", "--"]):
        subprocess.run([*command, str(temporary)], check=False, stderr=subprocess.DEVNULL)
    for directory in (state, runtime, temporary):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in runtime.glob("*.sock"):
        left.unlink()
    tempfile.tempdir = str(temporary)


def _shared(name: str) -> str:
    return (host.share() / "config" / name).read_text()

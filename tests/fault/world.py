"""A mailbox on Dovecot, a sink for replies, and daemons that are killed, frozen and started again."""

import asyncio
import imaplib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mailagent import commands, config
from mailagent.core.errors import TemporaryError
from tests.daemon import SECRETS, clean_environment
from tests.fault import leftovers
from tests.fault.checker import Asked, Verdict, judge
from tests.fault.failpoints import Script
from tests.fault.proxy import Streams
from tests.fault.sink import Sink
from tests.settings import settings_text

DOMAIN = "customers.test"
USER, PASSWORD = "agent", "secret"
DOVECOT = "/usr/sbin/dovecot"
BOUND = 60.0
"""Seconds within which whatever went wrong must be mended."""
LOOK = 0.02
RESTART = 0.1
"""RestartSec of systemd.service(5): a daemon that cannot start does not use up the machine."""

MAIL = """\
Authentication-Results: mx.demo.test; dmarc=pass header.from={domain}\r
From: {mail.sender}\r
To: agent@demo.test\r
Subject: thread {mail.thread}\r
Message-ID: {mail.message_id}\r
{references}MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary="next"\r
\r
--next\r
Content-Type: text/plain\r
\r
Q:{mail.name}\r
--next\r
Content-Type: text/csv\r
Content-Disposition: attachment; filename="data.csv"\r
\r
region;revenue\r
North;{mail.number}\r
South;2\r
--next--\r
"""


class Host:
    """One daemon, under a supervisor that starts it again whenever it ends, as systemd does."""

    def __init__(self, place: Path, command: list[str], environment: Mapping[str, str]) -> None:
        self.place = place
        self.lives = 0
        self.pid = 0
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self._command = command
        self._environment = environment
        self._supervisor: asyncio.Task[None] | None = None
        self._over = False

    async def start(self) -> None:
        """Start it for good; returns when it is ready."""
        self._supervisor = asyncio.create_task(self._supervise())
        await self.up()

    async def up(self) -> None:
        """Return when it is ready; AssertionError with its log when that takes too long."""
        try:
            async with asyncio.timeout(BOUND):
                await self.ready.wait()
        except TimeoutError:
            raise AssertionError(f"the daemon does not start:\n{self.log()}") from None

    async def stop(self) -> None:
        """End it for good. AssertionError when it does not end by itself."""
        self._over = True
        self.thaw()
        self._signal(signal.SIGTERM)
        if self._supervisor:
            _, late = await asyncio.wait({self._supervisor}, timeout=BOUND)
            self._signal(signal.SIGKILL)
            await self._supervisor
            assert not late, f"the daemon does not stop:\n{self.log()}"

    def kill(self) -> None:
        """kill -9; the supervisor sees it."""
        self.ready.clear()
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """It stands still, with all that it holds."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def frozen(self) -> bool:
        """Whether it stands still."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        except (OSError, IndexError):
            return False

    def log(self) -> str:
        """What it said in all its lives."""
        return (self.place / "log").read_text(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        if self.process and self.process.returncode is None:
            os.kill(self.pid, number)

    async def _supervise(self) -> None:
        with (self.place / "log").open("ab") as log, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.bind(str(self.place / "notify"))
            channel.setblocking(False)
            while not self._over:
                self.lives += 1
                environment = {**self._environment, "NOTIFY_SOCKET": str(self.place / "notify")}
                self.process = await asyncio.create_subprocess_exec(*self._command, stderr=log, env=environment)
                self.pid = self.process.pid
                telling = asyncio.create_task(self._told(channel))
                try:
                    await self.process.wait()
                finally:
                    telling.cancel()
                self.ready.clear()
                await asyncio.sleep(RESTART)

    async def _told(self, channel: socket.socket) -> None:
        while True:
            if b"READY=1" in await asyncio.get_running_loop().sock_recv(channel, 4096):
                self.ready.set()


@dataclass
class World:
    """Everything that a mail meets. `hosts` share one store where there are several."""

    place: Path
    sink: Sink
    imap_port: int
    script: Script
    hosts: list[Host]
    settings: config.Config
    known: set[int]
    """The processes that are ours and no daemon's."""
    cgroups: frozenset[str]
    asked: list[Asked] = field(default_factory=list)

    async def send(self, *mails: Asked, answers: Mapping[str, str] = {}) -> None:
        """Deliver the mails; `answers` are the Message-IDs that they reply to, by their names."""
        self.asked += [mail for mail in dict.fromkeys(mails) if mail not in self.asked]
        await asyncio.to_thread(append, self.imap_port, [raw(mail, answers.get(mail.name, "")) for mail in mails])

    def verdict(self, of: Iterable[Asked] | None = None) -> Verdict:
        """What became of these mails, or of all."""
        mails = self.asked if of is None else list(of)
        senders = {mail.sender for mail in mails}
        return judge(mails, [each for each in self.sink.history if each.recipient in senders])

    async def until(self, true: Callable[[], bool], what: str, bound: float = BOUND) -> None:
        """Wait; AssertionError saying `what` does not come."""
        end = time.monotonic() + bound
        while not true():
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {bound:.0f} s")
            await asyncio.sleep(LOOK)

    async def quiet(self, bound: float = BOUND) -> None:
        """Wait until no job waits any more: no thread is stuck."""
        end = time.monotonic() + bound
        while (waiting := await self.waiting()) != 0:
            if time.monotonic() > end:
                raise AssertionError(f"stuck: {waiting} jobs still wait after {bound:.0f} s")
            await asyncio.sleep(LOOK)

    async def waiting(self) -> int:
        """How many jobs are not at their end; -1 while the store is away."""
        with suppress(TemporaryError):
            counts = await commands.status(self.settings)
            return counts["turns"] + counts["delivery"] + counts["later"]
        return -1

    async def ended_badly(self) -> int:
        """How many jobs ended otherwise than with a reply that was sent."""
        counts = await commands.status(self.settings)
        return sum(counts.get(name, 0) for name in ("dead", "bounced", "held"))

    async def leftovers(self, before: Collection[str] = (), bound: float = 10.0) -> list[str]:
        """What is left of sessions and of killed daemons once they had time to clear away; not what was `before`."""
        end = time.monotonic() + bound
        while (found := [each for each in self._leftovers() if each not in before]) and time.monotonic() < end:
            await asyncio.sleep(LOOK)
        return found

    def _leftovers(self) -> list[str]:
        daemons = {host.pid for host in self.hosts}
        found = list(leftovers.processes(self.known, daemons).values())
        for host in self.hosts:
            found += leftovers.files(host.place / "state", host.place / "run")
        return found + sorted(leftovers.cgroups() - self.cgroups)


def raw(mail: Asked, answers: str) -> bytes:
    """The mail as the mailbox's server stores it."""
    references = f"In-Reply-To: {answers}\r\nReferences: {answers}\r\n" if answers else ""
    return MAIL.format(mail=mail, domain=DOMAIN, references=references).encode()


def append(port: int, mails: Iterable[bytes], folder: str = "INBOX") -> None:
    """Put the mails into the folder, in this order."""
    with _box(port) as box:
        for data in mails:
            done, said = box.append(folder, "", imaplib.Time2Internaldate(time.time()), data)
            assert done == "OK", said


def _box(port: int) -> imaplib.IMAP4:
    """The account, logged in; under load Dovecot closes a connection before it says a word."""
    end = time.monotonic() + BOUND
    while True:
        try:
            box = imaplib.IMAP4("127.0.0.1", port, timeout=BOUND)
            box.login(USER, PASSWORD)
        except (imaplib.IMAP4.abort, OSError):
            if time.monotonic() > end:
                raise
        else:
            return box


def settings_of(place: Path, *, lease: float, **ports: object) -> str:
    """The configuration of one host; failed attempts are soon repeated, so that a run is short."""
    text = settings_text(
        place,
        user=USER,
        allow=f'domains = ["{DOMAIN}"]',
        agent="max_sessions = 4\ndrain_seconds = 5",
        smtp="uncertain_seconds = 0.5",
        **{"model_url": "http://127.0.0.1:9", "attempts": 5, **ports},  # type: ignore[arg-type]
    )
    store = f"lease_seconds = {lease}\n"
    text = text.replace("[redis]\n", f"[redis]\n{store}") if "[redis]" in text else f"{text}[redis]\n{store}"
    return text.replace("[imap]", 'start = "all"\n[imap]')


def host(place: Path, script: Path, text: str, light: float | None) -> Host:
    """A daemon with these settings, not started."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "mailagent.toml").write_text(text)
    command = [sys.executable, "-m", "tests.fault.daemon", str(place / "mailagent.toml"), str(script)]
    command += [] if light is None else [str(light)]
    root = str(Path(__file__).resolve().parents[2])
    return Host(place, command, {**clean_environment(place), "PYTHONPATH": root})


def share(place: Path, states: list[Path]) -> None:
    """Let all daemons of one store see the same blobs, and be known to it by the same name."""
    (place / "blobs").mkdir()
    for each in states:
        (each / "state").mkdir(parents=True)
        (each / "state" / "blobs").symlink_to(place / "blobs")
        (each / "state" / "id").write_text("shared")


def load(text: str) -> config.Config:
    """These settings, with the secrets of tests."""
    return config.load(text, SECRETS, {})


@asynccontextmanager
async def a_place() -> AsyncIterator[Path]:
    """A directory whose path is short enough for unix sockets below it (unix(7))."""
    place = Path(tempfile.mkdtemp(prefix="ma-", dir="/tmp"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def dial(port: int = 0, path: Path | None = None) -> Callable[[], Awaitable[Streams]]:
    """How a relay reaches a server: on loopback, or at a socket's path."""
    return lambda: asyncio.open_unix_connection(path) if path else asyncio.open_connection("127.0.0.1", port)

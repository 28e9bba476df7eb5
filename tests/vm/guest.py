"""Inside the machine, as root: the unit with a mail server and a stand-in model beside it, then what needs control
groups of its own. Prints a table."""

import asyncio
import logging
import re
import secrets
import smtplib
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from aiohttp import web

from mailagent import commands
from mailagent.adapters import cgroups, host
from mailagent.config import Sandbox
from mailagent.core.policy import control
from mailagent.demo import story
from mailagent.demo.mailserver import MailServer
from mailagent.demo.rules import RulesModel
from tests.fault.leftovers import OURS
from tests.settings import settings_text
from tests.vm import AS_PROMISED, FAULTS

AGENT, CUSTOMER = "agent@demo.test", story.CUSTOMER
GROUPS = Path("/sys/fs/cgroup")
SETTINGS = Path("/etc/mailagent")
PROGRAM = "/opt/mailagent/venv/bin/mailagent"
SECRETS = {name: secrets.token_hex(16) for name in ("imap-password", "smtp-password", "anthropic-api-key")}
TESTER = "tester"
DRAIN = 20
PATIENCE = 300.0
"""Seconds for anything that is waited for: this machine is emulated."""
LONGEST = 3000.0
"""Seconds for a program of tests."""


class Patient(RulesModel):
    """Holds its answer to the first result of a tool back until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.goes_on = asyncio.Event(), asyncio.Event()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        if b'"tool_result"' in await request.read():
            self.asked.set()
            await self.goes_on.wait()
        return await super()._messages(request)


@dataclass
class Unit:
    """The service, and the hands of a customer and of an administrator."""

    server: MailServer
    model: Patient
    sent: list[EmailMessage] = field(default_factory=list)

    async def ask(self) -> None:
        """Send a mail with data, and return in the middle of its turn."""
        self.model.asked.clear()
        self.model.goes_on.clear()
        mail = story.request(AGENT, story.QUESTION, [("orders.csv", story.sample_csv())])
        self.sent.append(mail)
        await asyncio.to_thread(self._submit, mail)
        async with asyncio.timeout(PATIENCE):
            await self.model.asked.wait()

    def _submit(self, mail: EmailMessage) -> None:
        with smtplib.SMTP("127.0.0.1", self.server.smtp_port, timeout=PATIENCE) as smtp:
            smtp.login(CUSTOMER, "secret")
            smtp.send_message(mail)

    async def answered(self) -> EmailMessage:
        """The one reply to the last mail, when the model goes on."""
        self.model.goes_on.set()
        await until(lambda: self.replies(self.sent[-1]))
        return self.replies(self.sent[-1])[0]

    def replies(self, mail: EmailMessage) -> Sequence[EmailMessage]:
        found = [message_from_bytes(raw, EmailMessage, policy=policy.default) for raw in self.server.messages(CUSTOMER)]
        return [reply for reply in found if reply["In-Reply-To"] == mail["Message-ID"]]


def shown(name: str) -> str:
    """A property of the unit."""
    return told("systemctl", "show", "--value", f"--property={name}", "mailagent")


def told(*command: str, code: int = 0) -> str:
    """What a command prints, having ended as it should."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST)
    assert done.returncode == code, f"{command} ended with {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout.strip()


def group() -> Path:
    """The unit's control group."""
    return GROUPS / shown("ControlGroup").lstrip("/")


def inside(place: Path) -> dict[int, str]:
    """The processes of a group, with their command lines."""
    found = {}
    for pid in (place / "cgroup.procs").read_text().split():
        found[int(pid)] = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Wait for it; returns how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, f"not within {seconds} s"
        await asyncio.sleep(0.2)
    return time.monotonic() - began


def sandboxes() -> list[Path]:
    """The groups that the daemon made for its sandboxes."""
    return [path for path in group().iterdir() if path.is_dir() and path.name != cgroups.OURS]


def strangers() -> list[str]:
    """Processes of the unit beside the daemon and what it has all the time."""
    everybody, daemon = inside(group() / cgroups.OURS), int(shown("MainPID"))
    return [words for pid, words in everybody.items() if pid != daemon and not any(own in words for own in OURS)]


async def starts(at: Unit) -> str:
    """the unit becomes ready"""
    assert (GROUPS / "cgroup.controllers").exists(), "no cgroup v2"
    assert " cgroup " not in Path("/proc/self/mountinfo").read_text(), "cgroup v1"
    took = await asyncio.to_thread(started)
    assert shown("ActiveState") == "active"
    assert set(inside(group() / cgroups.OURS)) >= {int(shown("MainPID"))}
    return f"after {took:.0f} s; {told('systemctl', '--version').splitlines()[0]}, {told('uname', '-r')}"


def started() -> float:
    began = time.monotonic()
    told("systemctl", "start", "mailagent")
    return time.monotonic() - began


async def doctor(at: Unit) -> str:
    """doctor names control groups"""
    given = [f"--property=LoadCredential={name}:{SETTINGS}/credentials/{name}" for name in SECRETS]
    said = await asyncio.to_thread(told, *delegated("mailagent"), *given, PROGRAM, "doctor", "--config", config())
    assert commands.LIMITS[True] in " ".join(said.split()), said
    return commands.LIMITS[True]


async def held(at: Unit) -> str:
    """in a turn, the sandbox is in a group with its limits"""
    await at.ask()
    (place,) = sandboxes()
    words = " ".join(inside(place).values())
    assert "/opt/claude/claude" in words, words
    limits = control(host.limits(Sandbox()))
    found = {name: (place / name).read_text().strip() for name in limits}
    assert found == limits, found
    return ", ".join(f"{name} {value}" for name, value in found.items())


async def replied(at: Unit) -> str:
    """it is answered, and nothing is left"""
    reply = await at.answered()
    took = await until(lambda: not sandboxes() and not strangers())
    return f"{len(list(reply.walk()))} parts; the group gone {took:.1f} s later"


async def killed(at: Unit) -> str:
    """killed in a turn, it is started again and goes on"""
    await at.ask()
    before, (place,) = shown("MainPID"), sandboxes()
    members = inside(place)
    told("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "mailagent")
    took = await until(lambda: shown("ActiveState") == "active" and shown("MainPID") not in ("0", before))
    assert shown("NRestarts") == "1"
    assert not place.exists(), "its group is still there"
    left = {pid: words for pid, words in members.items() if Path(f"/proc/{pid}").exists()}
    assert not left, left
    reply = await at.answered()
    await until(lambda: not sandboxes() and not strangers())
    return f"ready again {took:.0f} s later; {len(list(reply.walk()))} parts"


async def stopped(at: Unit) -> str:
    """stopped in a turn, it gives it back and goes on later"""
    await at.ask()
    place, took = group(), await asyncio.to_thread(stop)
    assert not place.exists(), "its group is still there"
    await asyncio.to_thread(started)
    await at.answered()
    return f"stopped after {took:.0f} s, of which {DRAIN} are the turn's"


def stop() -> float:
    began = time.monotonic()
    told("systemctl", "stop", "mailagent")
    assert shown("Result") == "success", shown("Result")
    assert shown("ExecMainStatus") == "0", shown("ExecMainStatus")
    return time.monotonic() - began


async def once(at: Unit) -> str:
    """each mail had one reply, when it is idle and stopped"""
    await until(lambda: journal("--output=cat").count("sent job=") >= len(at.sent))
    took = await asyncio.to_thread(stop)
    counts = [len(at.replies(mail)) for mail in at.sent]
    assert counts == [1] * len(at.sent), counts
    return f"{len(counts)} mails; stopped after {took:.0f} s"


async def secret(at: Unit) -> str:
    """no secret is in the journal"""
    said = journal("--output=verbose", "--all")
    assert "sent job=" in said
    assert not [name for name, value in SECRETS.items() if value in said]
    return f"{len(said.splitlines())} lines"


async def guarded(at: Unit) -> str:
    """with the drop-in for gVisor, its trial is on gVisor

    A whole turn would be: traced, in an emulated machine, the CLI takes longer to begin than the SDK waits."""
    drop_in = Path("/etc/systemd/system/mailagent.service.d/gvisor.conf")
    drop_in.parent.mkdir()
    (line,) = re.findall(r"^ +(SystemCallFilter=.*)$", Path("docs/operations.md").read_text(), re.MULTILINE)
    drop_in.write_text(f"[Service]\n{line}\nTimeoutStartSec=300s\n")  # more time, since this machine is emulated
    Path(config()).write_text(Path(config()).read_text() + '[sandbox]\nbackend = "gvisor"\n')
    told("systemctl", "daemon-reload")
    took = await asyncio.to_thread(started)
    await asyncio.to_thread(stop)
    return f"ready after {took:.0f} s with {line}"


def journal(*options: str) -> str:
    """What the unit logged."""
    return told("journalctl", "--unit=mailagent", "--no-pager", *options)


def delegated(user: str) -> list[str]:
    """The start of a command that runs as this user, with control groups of its own."""
    options = ("--quiet", "--wait", "--pipe", "--collect", f"--uid={user}", "--property=Delegate=yes")
    return ["systemd-run", *options, f"--working-directory={Path.cwd()}"]


def of_tests(end: str, *command: str) -> Callable[[Unit], Awaitable[str]]:
    """A program of tests with control groups of its own: its report must end so, and with nothing skipped."""

    async def passes(at: Unit) -> str:
        began, python = time.monotonic(), str(Path.cwd() / ".venv/bin/python")
        whole = [*delegated(TESTER), *UNBUFFERED, python, "-m", *command]
        process = await asyncio.create_subprocess_exec(*whole, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        last = ""
        async with asyncio.timeout(LONGEST):
            async for line in process.stdout:
                if words := line.decode(errors="replace").rstrip():
                    last = words
                    print(f"    {last}", flush=True)
            code = await process.wait()
        assert (code, bool(re.search(end, last)), "skipped" in last) == (0, True, False), (code, last)
        return f"{last.strip('= ')} ({time.monotonic() - began:.0f} s)"

    passes.__doc__ = " ".join(command).replace("pytest -p no:cacheprovider --timeout=900 ", "")
    return passes


UNBUFFERED = ("--setenv=PYTHONUNBUFFERED=1", "--setenv=PYTHONDONTWRITEBYTECODE=1")
PYTEST = ("pytest", "-p", "no:cacheprovider", "--timeout=900")
STEPS: Sequence[Callable[[Unit], Awaitable[str]]] = (
    *(starts, doctor, held, replied, killed, stopped, once, secret, guarded),
    of_tests("passed", *PYTEST, "tests/integration/test_cgroups.py"),
    of_tests("passed", *PYTEST, "tests/integration/test_boundary.py"),
    of_tests(", 0 not as promised", "tests.fault.escapes"),
    of_tests("^0 not as promised", "tests.fault.limits"),
)


def config() -> str:
    return str(SETTINGS / "mailagent.toml")


@asynccontextmanager
async def unit() -> AsyncIterator[Unit]:
    """The servers, and the settings and secrets of who is to use them."""
    accounts = {AGENT: SECRETS["imap-password"], CUSTOMER: "secret"}
    async with MailServer(accounts, authserv_id="mx.demo.test") as server, Patient() as model:
        text = settings_text(
            Path("/PLACE"),
            model_url=model.url,
            imap_port=server.imap_port,
            smtp_port=server.smtp_port,
            agent=f"drain_seconds = {DRAIN}",
        )
        text = text.replace("/PLACE/state", "/var/lib/mailagent").replace("/PLACE/run", "/run/mailagent")
        Path(config()).write_text(text)
        for name, value in SECRETS.items():
            (SETTINGS / "credentials" / name).write_text(value + "\n")
        told("useradd", "--create-home", TESTER)
        yield Unit(server, model)


async def main() -> None:
    logging.disable()  # that a killed daemon takes no answer
    faults = 0
    chosen = re.findall(r"step=(\S+)", Path("/proc/cmdline").read_text())
    async with unit() as at:
        for step in STEPS:
            name = str(step.__doc__).partition("\n")[0]
            if chosen and not any(word in name.split() for word in chosen):
                continue
            try:
                print(f"  {name:55}{await step(at)}", flush=True)
            except (AssertionError, TimeoutError, ValueError, OSError, subprocess.SubprocessError) as error:
                faults += 1
                print(f"! {name:55}{error or type(error).__name__}\n{journal('--lines=30')}", flush=True)
    print(f"\n{FAULTS}{faults}" if faults else f"\n{AS_PROMISED}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())

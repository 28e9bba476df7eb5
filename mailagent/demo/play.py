"""Plays the story: starts the mail server and the real daemon, is the customer, and keeps what came back."""

import asyncio
import imaplib
import itertools
import json
import smtplib
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.status import Status

from mailagent.core.errors import PermanentError
from mailagent.demo import desk, story
from mailagent.demo.mailserver import MailServer

AGENT, CUSTOMER = "agent@demo.test", "customer@example.org"
AUTHSERV = "mx.demo.test"
PASSWORD = "demo"  # noqa: S105 - of a server on loopback that lives for a minute
READY_SECONDS = 60.0
LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Script:
    """What the customer sends: the sample data and questions where nothing else is given."""

    files: tuple[tuple[str, bytes], ...]
    question: str
    follow_ups: tuple[str, ...]
    timeout: float

    def opening(self) -> tuple[tuple[tuple[str, bytes], ...], str]:
        """Files and question of the first mail."""
        if self.files:
            return self.files, self.question or "What does this data say? Please give me an overview."
        return ((story.FILE, story.sample_csv()),), self.question or story.QUESTION

    def subject(self) -> str:
        """The subject of the conversation."""
        return f"Question about {self.files[0][0]}" if self.files else story.SUBJECT

    def replies(self) -> tuple[str, ...]:
        """The mails that follow it."""
        return self.follow_ups or (() if self.files or self.question else tuple(story.FOLLOW_UPS[:1]))


@dataclass(slots=True)
class Scene:
    """The running demo: its servers, its settings, and the last line that the daemon said."""

    server: MailServer
    settings: Path
    environment: dict[str, str]
    timeout: float
    out: Path
    console: Console
    said: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


async def play(script: Script, real: desk.Model | None, out: Path, console: Console) -> int:
    """The whole conversation; 0 when the model answered every turn, 1 when one ended in a refusal or an apology.
    PermanentError when a reply does not come at all; demo.json tells how far it went."""
    out.mkdir(parents=True, exist_ok=True)
    if real is None:
        console.print("[yellow]The model is a stand-in: fixed rules, no AI.[/] --model claude uses the real one.")
    told: dict[str, Any] = {"turns": []}
    try:
        async with desk.served(real) as model, _scene(real, model, script.timeout, out, console) as scene:
            told["model"] = model.name
            files, question = script.opening()
            mail = story.request(AGENT, question, files, sender=CUSTOMER, subject=script.subject())
            told["turns"].append(await _turn(scene, mail, 1))
            for number, text in enumerate(script.replies(), 2):
                mail = story.follow_up(desk.read((out / f"{number - 1:02d}-reply.eml").read_bytes()), text)
                told["turns"].append(await _turn(scene, mail, number))
    finally:
        (out / "demo.json").write_text(json.dumps(told, indent=2) + "\n")
    console.print(
        f"Open [bold]{escape(str(out))}/01-reply.html[/] in a browser; demo.json has the timing of each turn."
    )
    unanswered = [turn["turn"] for turn in told["turns"] if not (turn["usage"] or {}).get("requests")]
    for number in unanswered:
        console.print(
            f"[red]Turn {number} was not answered by the model: see {escape(str(out))}/{number:02d}-reply.eml[/]"
        )
    return 1 if unanswered else 0


async def _turn(scene: Scene, mail: EmailMessage, number: int) -> dict[str, Any]:
    """Send one mail, wait for its reply, keep both; how it went."""
    out, console, timeout = scene.out, scene.console, scene.timeout
    stem = f"{number:02d}"
    (out / f"{stem}-request.eml").write_bytes(mail.as_bytes(policy=SMTP))
    console.print(Panel(escape(_own_words(mail)), title=f"{CUSTOMER} → {AGENT}: {escape(mail['Subject'])}"))
    started = time.monotonic()
    await asyncio.to_thread(_send, scene.server.smtp_port, mail)
    with console.status("sent") as status:
        raw = await _reply(scene, mail["Message-ID"], timeout, status)
    took = time.monotonic() - started
    text = desk.keep(raw, out, f"{stem}-reply")
    console.print(Panel(escape(text), title=f"{AGENT} → {CUSTOMER}, after {took:.1f} s", border_style="green"))
    return {"turn": number, "seconds": round(took, 3), **await _history(scene, mail["Message-ID"])}


def _own_words(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    lines = str(body.get_content()).splitlines() if body else []
    files = [part.get_filename() or "" for part in mail.iter_attachments()]
    own = itertools.takewhile(lambda line: not line.startswith(("On ", ">")), lines)
    return "\n".join(own).strip() + (f"\n\n[attached: {', '.join(files)}]" if files else "")


def _send(port: int, mail: EmailMessage) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as server:
        server.login(CUSTOMER, PASSWORD)
        server.send_message(mail)


async def _reply(scene: Scene, message_id: str, timeout: float, status: Status) -> bytes:
    """Look into the customer's mailbox until the answer to this message is there."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        raw = await asyncio.to_thread(_fetch, scene.server.imap_port, message_id)
        if raw:
            return raw
        if scene.ended.is_set():
            raise PermanentError("the daemon ended:\n" + "\n".join(scene.said[-20:]))
        status.update(
            escape(f"waiting {timeout - (deadline - time.monotonic()):.0f} s – {(scene.said or [''])[-1][:100]}")
        )
        await asyncio.sleep(LOOK_SECONDS)
    raise PermanentError(f"no reply within {timeout:.0f} s; the daemon said last:\n" + "\n".join(scene.said[-20:]))


def _fetch(port: int, message_id: str) -> bytes | None:
    with imaplib.IMAP4("127.0.0.1", port, timeout=20) as box:
        box.login(CUSTOMER, PASSWORD)
        box.select("INBOX")
        _, found = box.uid("SEARCH", "HEADER", "In-Reply-To", f'"{message_id}"')
        ids = found[0].split() if found and found[0] else []
        if not ids:
            return None
        _, parts = box.uid("FETCH", ids[-1].decode(), "(BODY.PEEK[])")
        return bytes(parts[0][1])


async def _history(scene: Scene, message_id: str) -> dict[str, Any]:
    """What the daemon's own `show` says of this mail: ids, usage, and when each stage was reached (`sent` is recorded
    after the customer can have the reply, so it is waited for)."""
    deadline = time.monotonic() + scene.timeout
    while time.monotonic() < deadline:
        process = await asyncio.create_subprocess_exec(
            *desk.command("show", scene.settings, "--json", message_id),
            stdout=asyncio.subprocess.PIPE,
            env=scene.environment,
        )
        output, _ = await process.communicate()
        job = json.loads(output) if output else {}
        if job.get("is") in ("Sent", "Bounced", "Held", "Dead"):
            return _summary(job)
        await asyncio.sleep(LOOK_SECONDS)
    raise PermanentError("the daemon does not say what became of the mail:\n" + "\n".join(scene.said[-20:]))


def _summary(job: dict[str, Any]) -> dict[str, Any]:
    stage = job["stage"].get("before", job["stage"])  # of a job that is held, since all it got is an apology
    composed = stage.get("composed", {})
    start = job["history"][0]["at"]
    return {
        "message_id": job["message_id"],
        "reply_message_id": composed.get("message_id"),
        "thread": job["thread"],
        "session": job["session"],
        "usage": composed.get("usage"),
        "stages": {stamp["name"]: round(max(0.0, stamp["at"] - start), 4) for stamp in job["history"]},
    }


@asynccontextmanager
async def _scene(
    real: desk.Model | None, model: desk.Model, timeout: float, out: Path, console: Console
) -> AsyncIterator[Scene]:
    """Mail server and daemon, running and ready; both gone at the end."""
    with tempfile.TemporaryDirectory(prefix="mailagent-demo-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        place.chmod(0o711)
        async with MailServer({AGENT: PASSWORD, CUSTOMER: PASSWORD}, authserv_id=AUTHSERV) as server:
            settings = place / "mailagent.toml"
            settings.write_text(_settings(place, server, model))
            settings.chmod(0o644)
            secrets = {"MAILAGENT_IMAP_PASSWORD": PASSWORD, "MAILAGENT_SMTP_PASSWORD": PASSWORD}
            scene = Scene(server, settings, desk.environment(real, secrets), timeout, out, console)
            async with _daemon(scene, place / "notify", console):
                yield scene


@asynccontextmanager
async def _daemon(scene: Scene, address: Path, console: Console) -> AsyncIterator[None]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        address.chmod(0o666)
        channel.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            *desk.command("run", scene.settings),
            stderr=asyncio.subprocess.PIPE,
            env={**scene.environment, "NOTIFY_SOCKET": str(address)},
        )
        listening = asyncio.create_task(_listen(process, scene))
        try:
            with console.status("starting mail server, Redis and the daemon"):
                await _ready(channel, scene)
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await listening


async def _listen(process: asyncio.subprocess.Process, scene: Scene) -> None:
    assert process.stderr is not None  # noqa: S101 - asked for above
    async for line in process.stderr:
        scene.said.append(line.decode(errors="replace").rstrip())
    scene.ended.set()


async def _ready(channel: socket.socket, scene: Scene) -> None:
    """Wait for the daemon's READY=1, the way systemd does (sd_notify(3))."""
    loop = asyncio.get_running_loop()
    ended = asyncio.create_task(scene.ended.wait())
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                said = asyncio.create_task(loop.sock_recv(channel, 4096))
                await asyncio.wait({said, ended}, return_when=asyncio.FIRST_COMPLETED)
                if said.done() and b"READY=1" in said.result():
                    return
                if ended.done():
                    said.cancel()
                    raise PermanentError("the daemon did not start:\n" + "\n".join(scene.said[-20:]))
    except TimeoutError:
        raise PermanentError("the daemon is not ready:\n" + "\n".join(scene.said[-20:])) from None
    finally:
        ended.cancel()


def _settings(place: Path, server: MailServer, model: desk.Model) -> str:
    return f"""
[mail]
address = "{AGENT}"
authserv_id = "{AUTHSERV}"
plus_addressing = true
[imap]
host = "127.0.0.1"
port = {server.imap_port}
security = "none"
user = "{AGENT}"
[smtp]
host = "127.0.0.1"
port = {server.smtp_port}
security = "none"
user = "{AGENT}"
[[allow]]
addresses = ["{CUSTOMER}"]
{desk.model_settings(model)}
[storage]
state_dir = "{place}/state"
runtime_dir = "{place}/run"
"""

"""mailagent on one's own desk: private settings, a model, and a child process of the real command; no mail server."""

import asyncio
import os
import re
import sys
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from mailagent.core.errors import ConfigError, PermanentError
from mailagent.demo.rules import RulesModel

ADDRESS, CUSTOMER = "ask@desk.test", "you@desk.test"
NO_AI = "Answered by the stand-in model: fixed rules, no AI."


@dataclass(frozen=True, slots=True)
class Model:
    """What answers: the Messages API at `base_url` under this name; `notice` goes to the foot of each reply."""

    base_url: str
    name: str
    notice: str


def model(kind: str) -> Model | None:
    """The real model as the environment names it; None for the stand-in. ConfigError without a key for the real one."""
    if kind == "rules":
        return None
    if not os.environ.get("ANTHROPIC_API_KEY") and not os.environ.get("ANTHROPIC_BASE_URL"):
        raise ConfigError("ANTHROPIC_API_KEY is not set: set it, or use --model rules (fixed rules, no AI)")
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    return Model(url, os.environ.get("ANTHROPIC_MODEL", "claude-sonnet-4-5"), "")


@asynccontextmanager
async def served(real: Model | None) -> AsyncIterator[Model]:
    """The model to use; the stand-in is started here and lives as long as the context."""
    if real:
        yield real
        return
    async with RulesModel() as rules:
        yield Model(rules.url, "rules", NO_AI)


async def ask(
    files: Sequence[tuple[str, bytes]], question: str, thread: str, real: Model | None, out: Path, console: Console
) -> int:
    """Answer a question about files and keep the answer in `out`; a named thread goes on where it stood."""
    home = _home()
    memory = home / f"{re.sub(r'[^A-Za-z0-9_-]', '_', thread)}.last" if thread else None
    before = memory.read_bytes() if memory and memory.exists() else None
    if not files and before is None:
        raise ConfigError("nothing to look at: name a FILE (CSV, XLSX or Parquet), or a --thread that was asked before")
    mail = _mail(before, files, question)
    async with served(real) as chosen:
        with tempfile.TemporaryDirectory(prefix="mailagent-") as runtime, console.status("asking"):
            Path(runtime).chmod(0o711)
            settings = Path(runtime) / "mailagent.toml"
            settings.write_text(_settings(home / "state", Path(runtime) / "run", chosen))
            settings.chmod(0o644)
            raw = await _answer(settings, mail.as_bytes(policy=SMTP), real)
    if memory:
        memory.write_bytes(raw)
    text = keep(raw, out, "reply")
    console.print(Panel(text, title=f"{out}/reply.html"), markup=False)
    return 0


def _mail(before: bytes | None, files: Sequence[tuple[str, bytes]], question: str) -> EmailMessage:
    """The question as a mail, in the thread of the reply that came before it."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = CUSTOMER, ADDRESS, "Question"
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain="desk.test")
    if before is not None:
        mail["In-Reply-To"] = read(before)["Message-ID"]
    mail.set_content(question)
    for name, data in files:
        mail.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return mail


async def _answer(settings: Path, mail: bytes, real: Model | None) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command("answer", settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(real),
    )
    raw, errors = await process.communicate(mail)
    if process.returncode != 0:
        raise PermanentError(f"no answer:\n{errors.decode(errors='replace').strip()}")
    return raw


def command(name: str, settings: Path, *more: str) -> list[str]:
    """The real command as a process of its own."""
    return [sys.executable, "-m", "mailagent", name, "--config", str(settings), *more]


def environment(real: Model | None, secrets: Mapping[str, str] = {}) -> dict[str, str]:
    """What the child inherits; the stand-in is never told a key."""
    inherited = {name: value for name, value in os.environ.items() if real or name != "ANTHROPIC_API_KEY"}
    return {**inherited, "MAILAGENT_IMAP_PASSWORD": "none", **secrets}


def _settings(state: Path, runtime: Path, chosen: Model) -> str:
    return f"""
[mail]
address = "{ADDRESS}"
[imap]
host = "localhost"
user = "none"
[smtp]
host = "localhost"
[agent]
attempts = 1
{model_settings(chosen)}
[storage]
state_dir = "{state}"
runtime_dir = "{runtime}"
"""


def model_settings(chosen: Model) -> str:
    """The [model] table for this model."""
    return f'[model]\nbase_url = "{chosen.base_url}"\nname = "{chosen.name}"\nnotice = "{chosen.notice}"'


def keep(raw: bytes, directory: Path, stem: str) -> str:
    """Write a reply as STEM.eml, as self-contained STEM.html, and what is attached to STEM/; returns its plain text."""
    (directory / stem).mkdir(parents=True, exist_ok=True)
    (directory / f"{stem}.eml").write_bytes(raw)
    mail = read(raw)
    html = mail.get_body(("html",))
    if html is not None:
        (directory / f"{stem}.html").write_text(_with_images(html.get_content(), mail), encoding="utf-8")
    for part in mail.iter_attachments():
        if isinstance(part, EmailMessage) and part.get_filename():
            (directory / stem / Path(str(part.get_filename())).name).write_bytes(_data(part))
    text = mail.get_body(("plain",))
    return str(text.get_content()) if text else ""


def read(raw: bytes) -> EmailMessage:
    """A reply's bytes as a message."""
    return message_from_bytes(raw, _class=EmailMessage, policy=SMTP)


def _data(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def _with_images(html: str, mail: EmailMessage) -> str:
    for part in mail.walk():
        identity = str(part.get("Content-ID", "")).strip("<>")
        if identity:
            data = b64encode(_data(part)).decode("ascii")
            html = html.replace(f"cid:{identity}", f"data:{part.get_content_type()};base64,{data}")
    return html


def _home() -> Path:
    """Where threads are remembered: for root a place that an unprivileged user can reach."""
    if os.geteuid() == 0:
        home = Path("/var/lib/mailagent-ask")
    else:
        home = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "mailagent-ask"
    home.mkdir(parents=True, exist_ok=True)
    return home

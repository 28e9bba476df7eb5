"""The command `mailagent`: run, demo, ask, answer, check, doctor, inspect, and those of operators."""

import argparse
import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailagent import __version__, commands, config, daemon
from mailagent.adapters import host, probe, systemd, telemetry
from mailagent.commands import operate
from mailagent.commands import purge as purging
from mailagent.core.errors import ConfigError, PermanentError, TemporaryError
from mailagent.core.inspection import House, Inspection
from mailagent.core.values import Accept, Ignore, Refuse, Verdict
from mailagent.demo import desk, play

BAD_CONFIG = 2
CONFIG = "/etc/mailagent/mailagent.toml"
NO_SECRETS = {variable: "-" for variable, _ in config.SECRETS.values() if not variable.startswith("AWS_")}
"""For commands that need none; without those of AWS, the machine's own role is tried."""


def main() -> None:
    """Do what the command line says; exit 0 when it was done, 1 when it could not be, 2 when the set-up is wrong."""
    arguments = parser().parse_args()
    try:
        sys.exit(arguments.command(arguments))
    except ConfigError as error:
        print("\n".join(f"mailagent: {fault}" for fault in error.faults), file=sys.stderr)  # noqa: T201
        sys.exit(BAD_CONFIG)
    except (TemporaryError, PermanentError) as error:
        print(f"mailagent: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    top = argparse.ArgumentParser(prog="mailagent", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    _demo(subparsers)
    _ask(subparsers)
    _inspect(subparsers)
    for name, command, text in (
        ("run", run, "the daemon: watch the mailbox and answer"),
        ("answer", answer, "answer one message from standard input; the reply goes to standard output"),
        ("check", check, "read the settings and say every fault"),
        ("doctor", doctor, "try everything the daemon needs, and say how to mend what is missing"),
    ):
        sub = _with_settings(subparsers, name, text)
        sub.set_defaults(command=command)
        if name == "check":
            sub.add_argument(
                "--mail", action="store_true", help="log in to the mail servers too, and say what they lack"
            )
    operate.add(lambda name, text, act: _operating(subparsers, name, text, act))
    text = "forget threads: mails, replies, files, transcripts; says what it removed"
    purging.add(_operating(subparsers, "purge", text, purging.purge))
    return top


def _with_settings(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    sub = subparsers.add_parser(name, help=text, description=text)
    sub.add_argument("--config", type=Path, default=Path(CONFIG), help=f"the settings (default: {CONFIG})")
    return sub


def _operating(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, act: operate.Command
) -> argparse.ArgumentParser:
    sub = _with_settings(subparsers, name, text)
    sub.set_defaults(command=lambda arguments: asyncio.run(act(_load(arguments.config, NO_SECRETS), arguments)))
    return sub


def _demo(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "the whole thing on this machine: mail server, customer and daemon; no account or key needed"
    sub = subparsers.add_parser("demo", help=text, description=text)
    sub.add_argument("--file", type=Path, action="append", default=[], help="a CSV, XLSX or Parquet file (repeatable)")
    sub.add_argument("--question", default="", help="what to ask about it")
    sub.add_argument("--follow-up", action="append", default=[], help="a reply to the answer (repeatable)")
    sub.add_argument("--out", type=Path, default=Path("demo-out"), help="where mails and replies are kept")
    sub.add_argument(
        "--model", choices=("rules", "claude"), default="rules", help="fixed rules (no AI), or the real one"
    )
    sub.add_argument("--timeout", type=float, default=300.0, help="seconds to wait for each reply")
    sub.set_defaults(command=demo)


def _ask(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "ask about files without mail: the same session, sandbox and skills"
    sub = subparsers.add_parser("ask", help=text, description=text)
    sub.add_argument("files", type=Path, nargs="*", metavar="FILE", help="CSV, XLSX or Parquet")
    sub.add_argument("--question", required=True, help="what to ask about them")
    sub.add_argument("--out", type=Path, default=Path("ask-out"), help="where the answer goes")
    sub.add_argument("--thread", default="", help="a name: ask again under it to continue")
    sub.add_argument("--model", choices=("rules", "claude"), default="", help="default: claude when a key is set")
    sub.set_defaults(command=ask)


def _inspect(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "what the daemon makes of a message: sender, verdict, thread, text, files; does nothing, needs no store"
    sub = subparsers.add_parser("inspect", help=text, description=text)
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE.eml", help="a message as a server stores it")
    sub.add_argument("--config", type=Path, default=None, help=f"the settings (default: {CONFIG} if it is there)")
    sub.add_argument("--json", action="store_true", help="for programs: one object a line")
    sub.set_defaults(command=inspect)


def demo(arguments: argparse.Namespace) -> int:
    """`mailagent demo`."""
    story = play.Script(
        files=tuple(_read(path) for path in arguments.file),
        question=arguments.question,
        follow_ups=tuple(arguments.follow_up),
        timeout=arguments.timeout,
    )
    model = desk.model(arguments.model)
    return asyncio.run(play.play(story, model, arguments.out, Console()))


def ask(arguments: argparse.Namespace) -> int:
    """`mailagent ask`."""
    files = [_read(path) for path in arguments.files]
    model = desk.model(arguments.model or ("claude" if os.environ.get("ANTHROPIC_API_KEY") else "rules"))
    return asyncio.run(desk.ask(files, arguments.question, arguments.thread, model, arguments.out, Console()))


def run(arguments: argparse.Namespace) -> int:
    """`mailagent run`."""
    telemetry.start()
    asyncio.run(daemon.run(_unprivileged(arguments.config)))
    return 0


def answer(arguments: argparse.Namespace) -> int:
    """`mailagent answer`."""
    telemetry.start()
    settings = _unprivileged(arguments.config)
    sys.stdout.buffer.write(asyncio.run(commands.answer(settings, sys.stdin.buffer.read())))
    return 0


def check(arguments: argparse.Namespace) -> int:
    """`mailagent check`."""
    settings, console = _load(arguments.config), Console()
    console.print(f"{arguments.config}: good")
    found = asyncio.run(probe.probe(settings)) if arguments.mail else []
    for each in found:
        colour, mark = {"good": ("green", "ok    "), "lesser": ("yellow", "lesser"), "bad": ("red", "not ok")}[
            each.level
        ]
        console.print(f"[{colour}]{mark}[/] ", end="")
        words = f"{each.name}: {each.words}" if each.words else each.name
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    return 1 if any(each.level == "bad" for each in found) else 0


def doctor(arguments: argparse.Namespace) -> int:
    """`mailagent doctor`."""
    settings = _load(arguments.config)
    _give_up_root(arguments.config, settings, [])
    found = asyncio.run(commands.diagnose(settings))
    console = Console()
    for each in found:
        console.print(
            f"[{'red' if each.mend else 'green'}]{'not ok' if each.mend else 'ok    '}[/] {each.name}", end=""
        )
        console.print(f": {each.mend or each.words}" if each.mend or each.words else "", markup=False, highlight=False)
    return 1 if any(each.mend for each in found) else 0


def inspect(arguments: argparse.Namespace) -> int:
    """`mailagent inspect`."""
    return asyncio.run(_inspected(arguments.files, _house(arguments.config), arguments.json))


async def _inspected(paths: Sequence[Path], house: House | None, as_json: bool) -> int:
    failed = False
    async for path, found in commands.inspect(paths, house):
        failed = failed or isinstance(found, str)
        if as_json:
            print(json.dumps({"file": str(path), **_as_json(found)}))  # noqa: T201
        else:
            _show(path, found, Console())
    return 1 if failed else 0


def _as_json(found: Inspection | str) -> dict[str, object]:
    """The inspection without the bytes of attachments; `error` alone for a message that cannot be read."""
    if isinstance(found, str):
        return {"error": found}
    mail = dataclasses.asdict(found.inbound)
    mail["attachments"] = [
        {"name": file.name, "media_type": file.media_type, "bytes": len(file.data)}
        for file in found.inbound.attachments
    ]
    judged = found.judgement
    if judged is None:
        return {"error": None, **mail, "ids": found.ids, "verdict": None}
    verdict = dict(zip(("is", "reason"), _told(judged.verdict), strict=True))
    return {"error": None, **mail, "ids": found.ids, **dataclasses.asdict(judged), "verdict": verdict}


def _told(verdict: Verdict) -> tuple[str, str]:
    match verdict:
        case Accept():
            return "answered", ""
        case Ignore(reason):
            return "ignored", reason
        case Refuse(reason):
            return "refused", reason


def _show(path: Path, found: Inspection | str, console: Console) -> None:
    """For people: one line for each thing, then the texts; nothing of the mail is taken for markup."""
    table = Table(title=Text(str(path)), title_justify="left", show_header=False, box=SIMPLE)
    for name, value in [("cannot be read", found)] if isinstance(found, str) else _lines(found):
        if value:
            table.add_row(name, Text(value))
    console.print(table)


def _lines(found: Inspection) -> Iterator[tuple[str, str]]:
    mail, judged = found.inbound, found.judgement
    yield "from", f"{mail.sender_name} <{mail.sender}>" if mail.sender else f"cannot be told: {'; '.join(mail.defects)}"
    yield "to", ", ".join(mail.recipients)
    yield "subject", mail.subject
    yield "Message-ID", mail.message_id
    if judged:
        yield "proof", "proven" if judged.proven else "not proven"
        unless = "\n(unless it continues a thread of the sender's)" if judged.unless_known else ""
        yield "verdict", ": ".join(filter(None, _told(judged.verdict))) + unless
        for token, thread in judged.tokens:
            yield "token", f"{token}: " + (f"proves thread {thread}" if thread else "proves nothing with the keys here")
    else:
        yield "verdict", f"not known without settings{': ' if mail.automatic else ''}{mail.automatic}"
    yield "thread by", "\n".join(found.ids) or "nothing: it opens a new one"
    yield "new text", mail.text
    yield "quoted", mail.quoted
    for file in mail.attachments:
        yield "file", f"{file.name}  {file.media_type}  {len(file.data):,} bytes"


def _house(path: Path | None) -> House | None:
    """What the settings say, the secrets for other work left out; None without settings."""
    if path is None and not Path(CONFIG).exists():
        return None
    needless = {variable: "-" for name, (variable, _) in config.SECRETS.items() if name != "token_key"}
    return commands.house(_load(path or Path(CONFIG), needless))


def _unprivileged(path: Path) -> config.Config:
    """The settings, read by a process that is not root: a start by root begins again as somebody else here."""
    settings = _load(path)
    storage = settings.storage
    places = [storage.state_dir, storage.runtime_dir, *([storage.blobs] if storage.blobs.startswith("/") else [])]
    _give_up_root(path, settings, [Path(place) for place in places])
    return settings


def _give_up_root(path: Path, settings: config.Config, writable: list[Path]) -> None:
    """Begin again as somebody else when we are root; secrets in files that only root can read go along."""
    if os.geteuid() == 0 and os.environ.pop("CREDENTIALS_DIRECTORY", ""):
        for name, (variable, _) in config.SECRETS.items():
            os.environ[variable] = getattr(settings.secrets, name).get_secret_value()
    host.give_up_root(
        home=Path(settings.storage.state_dir),
        writable=writable,
        readable=[path, host.share(), Path(sys.prefix), host.analysis_environment(settings)],
        command=[sys.executable, "-m", "mailagent", *sys.argv[1:]],
    )


def _load(path: Path, secrets: Mapping[str, str] = MappingProxyType({})) -> config.Config:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: name the settings with --config FILE") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    return config.load(text, {**secrets, **os.environ}, systemd.credentials(os.environ))


def _read(path: Path) -> tuple[str, bytes]:
    try:
        return path.name, path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error

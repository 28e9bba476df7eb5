"""The command `mailagent`: run, demo, ask, answer, check, doctor, status, show."""

import argparse
import asyncio
import dataclasses
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mailagent import __version__, commands, config, daemon
from mailagent.adapters import host, systemd, telemetry
from mailagent.core.errors import ConfigError, PermanentError, TemporaryError
from mailagent.core.job import session_id
from mailagent.demo import desk, play

BAD_CONFIG = 2
CONFIG = "/etc/mailagent/mailagent.toml"


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
    for name, command, text in (
        ("run", run, "the daemon: watch the mailbox and answer"),
        ("answer", answer, "answer one message from standard input; the reply goes to standard output"),
        ("check", check, "read the settings and say every fault"),
        ("doctor", doctor, "try everything the daemon needs, and say how to mend what is missing"),
        ("status", status, "how many mails wait where"),
        ("show", show, "the life of one mail"),
    ):
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.add_argument("--config", type=Path, default=Path(CONFIG), help=f"the settings (default: {CONFIG})")
        sub.set_defaults(command=command)
        if name == "show":
            sub.add_argument("id", help="a Message-ID (received or sent) or a job's id")
            sub.add_argument("--json", action="store_true", help="for programs")
    return top


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
    _load(arguments.config)
    Console().print(f"{arguments.config}: good")
    return 0


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
        console.print(f": {each.mend}" if each.mend else "", markup=False, highlight=False)
    return 1 if any(each.mend for each in found) else 0


def status(arguments: argparse.Namespace) -> int:
    """`mailagent status`."""
    table = Table("queue", "jobs")
    for name, count in asyncio.run(commands.status(_load(arguments.config))).items():
        table.add_row(name, str(count))
    Console().print(table)
    return 0


def show(arguments: argparse.Namespace) -> int:
    """`mailagent show`."""
    job = asyncio.run(commands.find(_load(arguments.config), arguments.id))
    if job is None:
        raise PermanentError(f"no mail with the id {arguments.id} is known")
    if arguments.json:
        extra = {"is": type(job.stage).__name__, "session": session_id(job.thread)}
        print(json.dumps({**dataclasses.asdict(job), **extra}))  # noqa: T201
        return 0
    console = Console()
    console.print(f"{type(job.stage).__name__}: {job.subject!r} from {job.sender} (job {job.id}, thread {job.thread})")
    for stamp in job.history:
        console.print(f"  {datetime.fromtimestamp(stamp.at, UTC):%Y-%m-%d %H:%M:%S.%f} UTC  {stamp.name}")
    return 0


def _unprivileged(path: Path) -> config.Config:
    """The settings, read by a process that is not root: a start by root begins again as somebody else here."""
    settings = _load(path)
    _give_up_root(path, settings, [Path(settings.storage.state_dir), Path(settings.storage.runtime_dir)])
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


def _load(path: Path) -> config.Config:
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: name the settings with --config FILE") from error
    return config.load(text, os.environ, systemd.credentials(os.environ))


def _read(path: Path) -> tuple[str, bytes]:
    try:
        return path.name, path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error

"""What operators do with the store of a running daemon: status, queue, show, hold, release, requeue, resolve, fsck."""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailagent import stores
from mailagent.adapters.retention import RedisRetention
from mailagent.commands.leftovers import leftovers
from mailagent.commands.store import MOST, client_of, find, jobs_of
from mailagent.commands.words import Row, life, row, span
from mailagent.config import Config
from mailagent.core import operator
from mailagent.core.errors import PermanentError
from mailagent.core.job import Job, session_id
from mailagent.flow.retention import lost

Command = Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]

KINDS = ("turns", "delivery", "held", "bounced", "dead")
USUAL = ("turns", "delivery", "held")
WIDE = 250
"""Columns for who reads no terminal but a file."""


def add(subparser: Callable[[str, str, Command], argparse.ArgumentParser]) -> None:
    """Every command with its options; `subparser` makes one of a name, a sentence, and what it does."""
    which = "a Message-ID (received or sent), a job's id or its beginning"
    found = [
        subparser("status", "how many mails wait where", status),
        subparser("queue", "the mails that wait, are at work or are held", queue),
        subparser("show", "the life of one mail", show),
        subparser("fsck", "look whether all that is kept agrees; changes nothing unless asked to", fsck),
    ]
    for sub in found:
        sub.add_argument("--json", action="store_true", help="for programs")
    _, listing, showing, checking = found
    for kind in KINDS:
        listing.add_argument(
            f"--{kind}", action="append_const", const=kind, dest="kinds", help=f"those of {kind} alone"
        )
    listing.add_argument("--limit", type=int, default=50, help="so many of each kind (default: 50)")
    checking.add_argument("--repair", action="store_true", help="mend what does not agree in Redis")
    holding = subparser("hold", "keep a waiting mail back until it is released", hold)
    releasing = subparser("release", "let a held mail go on, or send a reply that bounced again", release)
    requeuing = subparser("requeue", "have a held, dead or bounced mail answered again from the start", requeue)
    resolving = subparser("resolve", "say what became of a reply that is held as uncertain", resolve)
    for sub in (showing, holding, releasing, requeuing, resolving):
        sub.add_argument("id", help=which)
    answer = resolving.add_mutually_exclusive_group(required=True)
    answer.add_argument("--sent", action="store_true", help="it has arrived: count it as sent")
    answer.add_argument("--resend", action="store_true", help="it has not: send the same bytes again")


async def status(config: Config, arguments: argparse.Namespace) -> int:
    """`mailagent status`."""
    async with jobs_of(config) as jobs:
        counts = await jobs.counts()
    if arguments.json:
        _out(counts)
        return 0
    table = Table("queue", "mails")
    for name, count in counts.items():
        table.add_row(name, str(count))
    Console().print(table)
    return 0


async def queue(config: Config, arguments: argparse.Namespace) -> int:
    """`mailagent queue`."""
    async with jobs_of(config) as jobs:
        rows = [
            row(each, time.time())
            for kind in arguments.kinds or USUAL
            for each in await jobs.listed(kind, min(arguments.limit, MOST))
        ]
        counts = await jobs.counts()
    if arguments.json:
        for each in rows:
            _out(dataclasses.asdict(each))
        return 0
    _print_rows(rows)
    more = {kind: counts[kind] for kind in KINDS if counts.get(kind)}
    _say(", ".join(f"{kind} {count}" for kind, count in more.items()) or "nothing waits")
    return 0


def _print_rows(rows: Iterable[Row]) -> None:
    table = Table("id", "state", "age", "from", "subject", "reason", box=SIMPLE)
    for each in rows:
        cells = (each.id, each.state, span(each.age), each.sender, each.subject, each.reason)
        table.add_row(*(Text(cell) for cell in cells))
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    if table.row_count:
        console.print(table)


async def show(config: Config, arguments: argparse.Namespace) -> int:
    """`mailagent show`."""
    async with jobs_of(config) as jobs:
        found = await find(jobs, arguments.id)
    if arguments.json:
        extra = {"is": type(found.job.stage).__name__, "session": session_id(found.job.thread)}
        _out({**dataclasses.asdict(found.job), **extra, "at_work": found.holder, "due": found.due})
        return 0
    for line in life(found, time.time()):
        _say(line)
    return 0


async def hold(config: Config, arguments: argparse.Namespace) -> int:
    """`mailagent hold`."""
    return await _change(config, arguments.id, operator.held, "is held")


async def release(config: Config, arguments: argparse.Namespace) -> int:
    """`mailagent release`."""
    return await _change(config, arguments.id, operator.released, "goes on")


async def requeue(config: Config, arguments: argparse.Namespace) -> int:
    """`mailagent requeue`."""
    return await _change(config, arguments.id, operator.requeued, "is answered again")


async def resolve(config: Config, arguments: argparse.Namespace) -> int:
    """`mailagent resolve`."""
    words = "counts as sent" if arguments.sent else "is sent again"
    return await _change(config, arguments.id, lambda job, now: operator.resolved(job, arguments.sent, now), words)


async def _change(config: Config, key: str, change: Callable[[Job, float], Job], done: str) -> int:
    async with jobs_of(config) as jobs:
        job = (await find(jobs, key)).job
        if not await jobs.change(job, change(job, time.time())):
            raise PermanentError(f"a worker has the thread of job {job.id} now, or changed it: try again in a moment")
    _say(f"job {job.id} {done}")
    return 0


async def fsck(config: Config, arguments: argparse.Namespace) -> int:
    """`mailagent fsck`."""
    async with client_of(config) as client:
        jobs, blobs = stores.jobs(config, client), stores.blobs(config)
        findings = await jobs.check()
        mended = await jobs.repair() if arguments.repair and findings else 0
        missing = await lost(RedisRetention(client, blobs), blobs, time.time())
    findings += [f"job {job.id}: its file {blob} is lost: put it back from a backup" for job, blob in missing]
    findings += leftovers(config)
    if arguments.json:
        _out({"findings": findings, "mended": mended})
    else:
        for each in findings:
            _say(each)
        _say(f"{len(findings)} findings, {mended} mended" if findings else "all agrees")
    return 0 if len(findings) <= mended else 1


def _out(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _say(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)

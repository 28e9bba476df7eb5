"""`mailagent purge`: forget threads, with all that was kept of them, and say what that was."""

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from mailagent import stores
from mailagent.adapters import trees
from mailagent.adapters.retention import RedisRetention
from mailagent.adapters.spool import drop
from mailagent.commands.store import client_of
from mailagent.config import Config
from mailagent.flow.retention import unnamed
from mailagent.ports import Kept

HOUR = 3600.0
_UNITS = {"h": HOUR, "d": 24 * HOUR, "w": 168 * HOUR}

Wanted = Callable[[Kept], bool]


@dataclass
class Purged:
    """What was removed, or would be; `busy` are the threads that have work and were left."""

    threads: list[Kept] = field(default_factory=list)
    busy: list[Kept] = field(default_factory=list)
    blobs: int = 0
    bytes: int = 0


def add(sub: argparse.ArgumentParser) -> None:
    """Its options."""
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--thread", metavar="ID", help="this one (`mailagent show` says which a mail is of)")
    which.add_argument("--sender", metavar="ADDRESS", help="every one that this address began or wrote to")
    which.add_argument("--older-than", metavar="AGE", type=_age, help="every one silent for this long: 12h, 30d, 8w")
    sub.add_argument("--dry-run", action="store_true", help="remove nothing, say what would go")


async def purge(config: Config, arguments: argparse.Namespace) -> int:
    """Do it, and say what was done; 1 when something had to be left."""
    found = await purged(config, wanted(arguments, time.time()), dry_run=arguments.dry_run)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for kept in found.threads:
        console.print(
            f"thread {kept.thread} of {kept.owner}: {len(kept.jobs)} mails, {kept.entries} transcript entries"
        )
    for kept in found.busy:
        console.print(f"left: thread {kept.thread} of {kept.owner} has work; once that is done, purge again")
    verb = "would be removed" if arguments.dry_run else "removed"
    mails = sum(len(kept.jobs) for kept in found.threads)
    console.print(
        f"{verb}: {len(found.threads)} threads with {mails} mails, their replies, files and transcripts; "
        f"{found.blobs} blobs ({found.bytes:,} bytes) that nothing names any more"
    )
    return 1 if found.busy else 0


def wanted(arguments: argparse.Namespace, now: float) -> Wanted:
    """Which threads the command line means."""
    if arguments.thread:
        return lambda kept: kept.thread == arguments.thread
    if arguments.sender:
        sender = arguments.sender.lower()
        return lambda kept: sender in {kept.owner, *(job.sender for job in kept.jobs)}
    return lambda kept: _last(kept) < now - arguments.older_than


async def purged(config: Config, wanted: Wanted, *, dry_run: bool) -> Purged:
    """Forget them. Blobs put within the longest turn stay: a mail that is being answered may be about to name them. The
    daemon's own sweep takes those."""
    found = Purged()
    before = time.time() - max(HOUR, 2 * config.agent.turn_seconds)
    async with client_of(config) as client:
        blobs = stores.blobs(config)
        await stores.jobs(config, client).belong_to(await blobs.identity())
        retention = RedisRetention(client, blobs)
        for kept in [kept async for kept in retention.threads() if wanted(kept)]:
            gone = not kept.works and (dry_run or await retention.forget(kept.thread))
            (found.threads if gone else found.busy).append(kept)
            if gone and not dry_run:
                _forget_here(config, kept)
        unwanted = await unnamed(retention, blobs, before, [kept.thread for kept in found.threads])
        if not dry_run:
            await blobs.drop(unwanted, before)
    found.blobs, found.bytes = len(unwanted), sum(unwanted.values())
    return found


def _forget_here(config: Config, kept: Kept) -> None:
    """What this host has on its own disk; other hosts do so within a day."""
    state = Path(config.storage.state_dir)
    directory = state / "threads" / kept.thread
    if directory.exists():
        trees.remove(directory)
    for job in kept.jobs:
        drop(state / "spool", job.mailbox, job.uid)


def _last(kept: Kept) -> float:
    return max((stamp.at for job in kept.jobs for stamp in job.history), default=0.0)


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d+)([hdw])", text)
    if not match:
        raise argparse.ArgumentTypeError("an age is a number with h, d or w behind it: 12h, 30d, 8w")
    return int(match[1]) * _UNITS[match[2]]

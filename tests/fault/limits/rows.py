"""Ways to take too much, run by the agent's own Bash tool in a real sandbox: what it gets, and what the agent sees.

Every row is bounded by itself, too, so that a limit that fails costs this machine at most some gigabytes for some
seconds."""

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailagent.adapters.watch import TOO_MUCH_DISK
from mailagent.core.errors import PermanentError
from mailagent.core.values import ThreadId
from tests.integration.test_session import Blocks, Desk, bash, desk, results, text

SMALL = {
    "memory_mb": 600,
    "tmp_mb": 60,
    "home_mb": 30,
    "disk_mb": 100,
    "files": 3000,
    "processes": 150,
    "command_seconds": 60,
}
ALIVE = "still alive"
NEIGHBOUR = ThreadId("neighbour")
MARK = "sandbox-left-behind"

SHARED = """python3 -c '
import mmap
room = mmap.mmap(-1, 2 << 30)
for at in range(0, 2 << 30, 4096): room[at] = 1
'"""
FROM_ZERO = """python3 -c '
import mmap
with open("/dev/zero", "r+b", buffering=0) as zero: room = mmap.mmap(zero.fileno(), 2 << 30)
for at in range(0, 2 << 30, 16 << 20):
    room[at:at + (16 << 20)] = bytes(16 << 20)
    room.madvise(mmap.MADV_DONTNEED)
'"""
PUT_AWAY = """python3 -c '
import ctypes, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
for _ in range(200):
    room = libc.mmap(None, ctypes.c_long(8 << 20), 3, 0x22, -1, ctypes.c_long(0))
    ctypes.memset(room, 1, 8 << 20)
    libc.mprotect(ctypes.c_void_p(room), ctypes.c_long(8 << 20), 0)
time.sleep(10)
'"""
OPEN = """python3 -c '
import os, time
for _ in range(4):
    if os.fork() == 0:
        for _ in range(4000): os.open("/dev/null", os.O_RDONLY)
        time.sleep(30); os._exit(0)
time.sleep(30)
'"""
MANY = """python3 -c '
import os, time
for _ in range(40):
    if os.fork() == 0:
        room = bytearray(50 << 20); time.sleep(30); os._exit(0)
time.sleep(30)
'"""
BOMB = """python3 -c '
import os, time
started = 0
try:
    for _ in range(1000):
        if os.fork() == 0: time.sleep(30); os._exit(0)
        started += 1
except OSError as error: print(started, error)
'"""
TIMERS = """python3 -c '
import ctypes, os
libc, timer, made = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p(), 0
while made < 100_000 and libc.timer_create(1, None, ctypes.byref(timer)) == 0: made += 1
print(made, os.strerror(ctypes.get_errno()))
'"""
NAMELESS = """python3 -c '
import os, time
files = [open(f"work/{name}", "wb") for name in "abcd"]
for name in "abcd": os.unlink(f"work/{name}")
for _ in range(50):
    for file in files: file.write(bytes(1 << 20)); file.flush()
time.sleep(30)
'"""
HOLES = "for n in 1 2 3; do truncate -s 60M work/$n; done"
CLOSED = "for n in $(seq 40); do mkdir work/$n; head -c 20M /dev/zero >work/$n/x; chmod 0 work/$n; done; exec sleep 30"
DEEP = """python3 -c '
import os
os.chdir("work")
for _ in range(100): os.mkdir("d" * 200); os.chdir("d" * 200)
'"""


@dataclass(frozen=True)
class Row:
    """One way to take too much: the agent runs it and then, unless its turn ends, says that it is still alive."""

    name: str
    command: str
    sees: str = ""
    """What the agent is told, as a regular expression; "" when its turn ends."""
    ends: str = ""
    """What the sender is told when the turn ends."""
    cleans: str = "true"
    settings: Mapping[str, int] = field(default_factory=dict)


def filled(directory: str) -> str:
    """Files of 20 MB until 800 MB are written."""
    return f"for n in $(seq 40); do head -c 20M /dev/zero >{directory}/$n || exit 1; done; exec sleep 30"


ROWS = (
    Row("memory: one large object", "python3 -c 'bytearray(2 << 30)'", "MemoryError"),
    Row("memory: shared, which no rlimit counts", SHARED, "Operation not permitted"),
    Row("memory: shared by a device", FROM_ZERO, "No such device"),
    Row("memory: put away where it cannot be read", PUT_AWAY, "Killed: it took more memory"),
    Row("memory: many small processes", MANY, "Killed: it took more memory"),
    Row("processes: a fork bomb", BOMB, "Resource temporarily unavailable"),
    Row("processes: raising the limit", "ulimit -u 1000", "cannot modify limit"),
    Row("signals: timers without end", TIMERS, r"\b\d{3,4} Resource temporarily unavailable"),
    Row("time: an endless loop", "while :; do :; done", "timed out", settings={"command_seconds": 3}),
    Row("time: a loop left behind", f"setsid python3 -c 'while 1: pass # {MARK}' & echo left", "left"),
    Row("/tmp", "head -c 200M /dev/zero >/tmp/x", "Disk full", cleans="rm /tmp/x"),
    Row("/dev/shm", "head -c 200M /dev/zero >/dev/shm/x", "No space left", cleans="rm /dev/shm/x"),
    Row("home", "head -c 200M /dev/zero >~/x", "No space left", cleans="rm ~/x"),
    Row("the root directory", "head -c 200M /dev/zero >/x", "Read-only file system"),
    Row("attachments", "head -c 200M /dev/zero >in/x", "Read-only file system"),
    Row("work/: one large file", "head -c 200M /dev/zero >work/x", "File size limit|File too large"),
    Row("work/: many files", filled("work"), ends=TOO_MUCH_DISK),
    Row("out/: many files", filled("out"), ends=TOO_MUCH_DISK),
    Row("beside them", "head -c 200M /dev/zero >x", "Read-only file system"),
    Row("the agent's own directory", filled("$CLAUDE_CONFIG_DIR"), ends=TOO_MUCH_DISK),
    Row("files of nothing but holes", f"{HOLES}; exec sleep 30", ends=TOO_MUCH_DISK),
    Row("files that are only open", OPEN, ends=TOO_MUCH_DISK),
    Row("files without a name", NAMELESS, ends=TOO_MUCH_DISK),
    Row("100,000 files", "cd work; for n in $(seq 100000); do >$n; done; exec sleep 30", ends=TOO_MUCH_DISK),
    Row("10 GB of output", "head -c 10G /dev/zero | tr '\\0' x", "persisted-output|Disk full|truncated"),
    Row("directories that cannot be opened", "mkdir -p out/a/b; >out/a/b/c; chmod 0 out/a/b out/a; echo ok", "ok"),
    Row("directories deeper than a path", DEEP, ends=TOO_MUCH_DISK),
    Row("work/: in closed directories", CLOSED, ends=TOO_MUCH_DISK),
)


@dataclass(frozen=True)
class Seen:
    """What came of a row: what the agent was told, how the turn ended, and how its neighbour fared meanwhile."""

    told: str
    ended: str
    neighbour: str
    goes_on: bool
    left: Sequence[str]
    seconds: float

    def fault(self, row: Row) -> str:
        """What is not as promised, "" when all is."""
        if self.ended != row.ends:
            return f"the turn ended with {self.ended!r}, the agent saw {self.told[:300]!r}"
        if not row.ends and not re.search(row.sees, self.told):
            return f"the agent saw {self.told[:300]!r}"
        if not row.ends and ALIVE not in self.told:
            return "the agent was not alive any more"
        if self.neighbour != ALIVE:
            return f"the neighbour answered {self.neighbour!r}"
        if not self.goes_on:
            return "the thread did not go on"
        return f"left behind: {self.left}" if self.left else ""


async def tried(row: Row) -> Seen:
    """Run the row in a session of its own, with a neighbour's session beside it and the thread's next turn after it."""
    place = Path(tempfile.mkdtemp(prefix="ma-", dir="/tmp"))
    settings = "\n".join(f"{key} = {value}" for key, value in {**SMALL, **row.settings}.items())
    last = bash(f"echo {ALIVE}")
    replay = [bash(row.command), bash(row.cleans), last, text("first")]
    beside: list[Blocks] = [*[bash(f"echo {number}") for number in range(5)], text(ALIVE)]
    try:
        async with desk(place / "a", replay, more=f"[sandbox]\n{settings}") as at, desk(place / "b", beside) as other:
            began = time.monotonic()
            (ended, told), neighbour = await asyncio.gather(_turn(at), other.turn("hello", thread=NEIGHBOUR))
            seconds = time.monotonic() - began
            goes_on = await _goes_on(at)
            return Seen(told, ended, neighbour.answer, goes_on, _left(), seconds)
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def _turn(at: Desk) -> tuple[str, str]:
    ended = ""
    try:
        await at.turn("hello")
    except PermanentError as error:
        ended = str(error)
    return ended, " ".join(results(request) for _, request in at.model.requests)


async def _goes_on(at: Desk) -> bool:
    at.model._replay = [*([text("never")] * len(at.model.requests)), text("again")]
    return (await at.turn("hello again", 2)).answer == "again"


def _left() -> list[str]:
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_text("latin-1"))
        except OSError:
            continue
    return [line for line in lines if f"pass # {MARK}" in line]

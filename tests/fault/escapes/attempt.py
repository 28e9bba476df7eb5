"""What an attempt is, and how the attempts are run inside: each in a process of its own, its end told as one line."""

import ctypes
import errno
import json
import os
import platform
import select
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

Targets = Mapping[str, Any]
"""What there is to reach, by name; a path that the sandbox shows elsewhere has another value inside."""

MODULES = ("reads", "writes", "network", "kernel", "processes", "gateway")
SECONDS = 10
PASSED = "OUT: "
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Attempt:
    """`tries` says what in one sentence; `refused` is the very refusal, an errno or words, as a regular expression;
    `without` is what lets it pass: no sandbox at all ("bare"), or one from which something was taken away; in words
    after a dash, why that is not shown."""

    name: str
    tries: str
    refused: str
    without: str
    run: Callable[[Targets], object]


class Refused(Exception):
    """What stood in the way, where the system gives no errno for it."""


ATTEMPTS: dict[str, Attempt] = {}


def attempt(
    refused: str, without: str = "bare"
) -> Callable[[Callable[[Targets], object]], Callable[[Targets], object]]:
    """Note the function of this name: it returns what it got, or raises OSError or Refused."""

    def note(run: Callable[[Targets], object]) -> Callable[[Targets], object]:
        add(Attempt(run.__name__, (run.__doc__ or "").strip(), refused, without, run))
        return run

    return note


def add(one: Attempt) -> None:
    """Note an attempt."""
    assert one.name not in ATTEMPTS, one.name
    assert one.tries, one.name
    ATTEMPTS[one.name] = one


def every() -> Mapping[str, Attempt]:
    """All attempts that are code, by name."""
    for name in MODULES:
        import_module(f"tests.fault.escapes.{name}")
    return ATTEMPTS


def checked(result: int) -> int:
    """The result of a call into libc; OSError when it failed."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def syscall(number: int | Mapping[str, int], *arguments: Any) -> int:
    """A system call by its number: one that all machines share, or one for each kind of machine."""
    if not isinstance(number, int):
        number = number[platform.machine()]
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return checked(LIBC.syscall(ctypes.c_long(number), *words))


def ended(one: Attempt, targets: Targets) -> str:
    """Run it here and now: PASSED and what it got, or what refused it."""
    try:
        return f"{PASSED}{one.run(targets)}"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except Refused as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a fault of the attempt itself is neither a way out nor a refusal
        return f"broken: {type(error).__name__}: {error}"


def apart(one: Attempt, targets: Targets) -> str:
    """Run it in a child: it may lose its rights, its namespace or its life."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        os.write(theirs, ended(one, targets).encode()[:4000])
        os._exit(0)
    os.close(theirs)
    told = os.read(ours, 4000).decode() if select.select([ours], [], [], SECONDS)[0] else f"no end in {SECONDS} s"
    os.close(ours)
    os.kill(child, signal.SIGKILL)  # it has told how it ended, has ended without a word, or does not end
    status = os.waitpid(child, 0)[1]
    return told or f"killed by {signal.Signals(os.WTERMSIG(status)).name}"


def main(names: Iterable[str], targets: Targets) -> None:
    """Run the named attempts and print how each ended."""
    attempts = every()
    for name in names:
        print(json.dumps([name, apart(attempts[name], targets)]), flush=True)


def command(python: str, kit: Path | str, names: Iterable[str], targets: Targets) -> list[str]:
    """The command line that runs them where `kit` holds a copy of these modules."""
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); "
        "from tests.fault.escapes.attempt import main; main(*json.loads(sys.argv[2]))"
    )
    return [python, "-I", "-c", program, str(kit), json.dumps([list(names), dict(targets)])]

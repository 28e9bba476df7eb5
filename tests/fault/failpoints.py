"""Every call that the flow makes through a port is a place where a daemon may die: numbered, and made to happen.

The flow makes at most one call with effects between two saves, so a step that is new is covered without being told."""

import inspect
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from mailagent.core.errors import TemporaryError

T = TypeVar("T")

POLLS = ("jobs.claim:turns", "jobs.claim:delivery", "inbox.uids_after")
"""Asked for ever: only the calls that find something are counted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong: `fault` (kill, hang, error, temporary), before or after the `nth` call since the plan was
    made; once, whatever the number of daemons and of their lives. Without a `call` nothing does."""

    id: str
    call: str = ""
    nth: int = 0
    when: str = ""
    fault: str = ""


class Script:
    """A directory through which a test tells its daemons the plan, and they tell it what they called."""

    def __init__(self, directory: Path) -> None:
        self._plan = directory / "plan"
        self._trace = directory / "trace"
        self._directory = directory

    def write(self, plan: Plan) -> None:
        """From now on this is the plan."""
        draft = self._plan.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(plan)))
        draft.replace(self._plan)

    def read(self) -> Plan:
        """The plan."""
        return Plan(**json.loads(self._plan.read_text()))

    def note(self, plan: Plan, call: str, when: str, nth: int) -> None:
        """Say which point was reached; it is known even if this process is killed at once."""
        with self._trace.open("a") as file:
            file.write(f"{plan.id} {call} {when} {nth}\n")

    def reached(self, plan: Plan) -> list[tuple[str, str, int]]:
        """The points that were reached while this was the plan: (call, when, nth)."""
        lines = [line.split() for line in self._trace.read_text().splitlines()] if self._trace.exists() else []
        return [(call, when, int(nth)) for of, call, when, nth in lines if of == plan.id]

    def fire(self, plan: Plan) -> bool:
        """True for the one who is to do it."""
        try:
            (self._directory / f"fired-{plan.id}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def fired(self, plan: Plan) -> bool:
        """Whether it has happened."""
        return (self._directory / f"fired-{plan.id}").exists()


class Failpoints:
    """Counts the calls of one process, and does what the plan says."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._plan = script.read()
        self._counts: Counter[tuple[str, str]] = Counter()

    def wrap(self, name: str, port: T) -> T:
        """The same port, watched."""
        return cast("T", _Watched(name, port, self))

    async def call(self, name: str, action: Callable[[], Any]) -> Any:
        """One call of a port."""
        polled = name in POLLS
        self._reach(name, "before", polled=polled)
        plan = self._plan
        result = await action()
        if result or not polled:
            if polled and plan is self._plan:  # what was asked before the plan was made is none of its points
                self._counts[name, "before"] += 1
            self._reach(name, "after")
        return result

    @asynccontextmanager
    async def session(self, name: str, session: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        """A session of the agent: its begin, its end, and what is asked of it."""
        self._reach(f"{name}.begin", "before")
        async with session as entered:
            self._reach(f"{name}.begin", "after")
            yield _Watched("session", entered, self)
            self._reach(f"{name}.end", "before")
        self._reach(f"{name}.end", "after")

    def _reach(self, call: str, when: str, *, polled: bool = False) -> None:
        plan = self._script.read()
        if plan.id != self._plan.id:
            self._plan = plan
            self._counts.clear()
        nth = self._counts[call, when] + 1
        if not polled:
            self._counts[call, when] = nth
            self._script.note(plan, call, when, nth)
        if (call, when, nth) == (plan.call, plan.when, plan.nth) and self._script.fire(plan):
            happen(plan)


def happen(plan: Plan) -> None:
    """Do it to this process."""
    words = f"the failpoint {plan.when} {plan.call} {plan.nth}"
    match plan.fault:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "temporary":
            raise TemporaryError(words)
        case "error":
            raise RuntimeError(words)
        case _:
            raise ValueError(plan.fault)


def _name(port: str, method: str, given: Sequence[object]) -> str:
    """What a call is called; a claim by its lane, too, since another loop makes it for each."""
    return f"{port}.{method}:{given[0]}" if method == "claim" else f"{port}.{method}"


class _Watched:
    """Stands for a port."""

    def __init__(self, name: str, port: object, points: Failpoints) -> None:
        self._name = name
        self._port = port
        self._points = points

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._port, method)
        if inspect.iscoroutinefunction(found):
            return lambda *given, **named: self._points.call(
                _name(self._name, method, given), lambda: found(*given, **named)
            )
        if method == "session":
            return lambda *given: self._points.session(self._name, found(*given))
        return found

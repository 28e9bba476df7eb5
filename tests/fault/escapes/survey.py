"""All attempts in groups, each run inside and, where that is safe, without what refuses it."""

import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.fault.escapes import answers, lives, planted, tools
from tests.fault.escapes.attempt import PASSED, every
from tests.fault.escapes.world import WEAKENED, world

Ends = Mapping[str, str]
STRICTER = ("unfiltered", "terminal")
"""What some machines refuse to everybody, by their own settings: bpf, io_uring, tracing, TIOCSTI."""


class Escape(Protocol):
    """What every attempt has, whatever it takes to run it."""

    @property
    def name(self) -> str: ...
    @property
    def tries(self) -> str: ...
    @property
    def refused(self) -> str:
        """The very refusal, as a regular expression."""

    @property
    def without(self) -> str:
        """What it is run without to show that it works; after a dash, why it is not shown."""


@dataclass(frozen=True)
class Finding:
    """How an attempt ended inside, and outside ("" where that is not shown)."""

    name: str
    tries: str
    refused: str
    without: str
    inside: str
    outside: str

    @property
    def is_refused(self) -> bool:
        return re.fullmatch(self.refused, self.inside, re.DOTALL) is not None

    @property
    def works(self) -> bool:
        """Whether it works without what refuses it."""
        return self.outside.startswith(PASSED)

    @property
    def is_left_out(self) -> bool:
        """Nothing is to be seen without: not at all, or not on a machine that is stricter than most."""
        return self.without.startswith("-") or (self.without in STRICTER and not self.works)

    @property
    def holds(self) -> bool:
        return self.is_refused and (self.works or self.is_left_out)


async def _code(place: Path) -> tuple[Ends, Ends]:
    attempts = every()

    def names(without: str) -> list[str]:
        return [each.name for each in attempts.values() if each.without == without]

    async with world(place) as at:
        terminal = names("terminal")
        inside = await at.inside([name for name in attempts if name not in terminal])
        outside = await at.bare(names("bare"))
        for how in WEAKENED:
            outside |= await at.weakened(names(how), how)
        inside |= await at.at_a_terminal(terminal, weak=False)
        outside |= await at.at_a_terminal(terminal, weak=True)
    return inside, outside


async def _answers(place: Path) -> tuple[Ends, Ends]:
    async with world(place) as at:
        return await answers.collected(at)


async def _lives(place: Path) -> tuple[Ends, Ends]:
    inside = await lives.inside(_below(place, "inside"))
    async with world(_below(place, "alone")) as at:
        return inside, await lives.bare() | await lives.by_bubblewrap_alone(at)


def _twice(run: Callable[..., Awaitable[Ends]]) -> Callable[[Path], Awaitable[tuple[Ends, Ends]]]:
    async def both(place: Path) -> tuple[Ends, Ends]:
        return await run(_below(place, "strong"), weak=False), await run(_below(place, "weak"), weak=True)

    return both


def _below(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


GROUPS: dict[str, tuple[Sequence[Escape], Callable[[Path], Awaitable[tuple[Ends, Ends]]]]] = {
    "code": (list(every().values()), _code),
    "tools of the agent": (tools.CALLS, _twice(tools.by_tools)),
    "left for a later turn": (planted.PLANTS, _twice(planted.left)),
    "outliving the turn": (lives.LEFTOVERS, _lives),
    "left in the answer": (answers.LEFT_BEHIND, _answers),
    "said in the agent's place": (answers.FORGED, _twice(answers.forged)),
}


async def findings(group: str) -> list[Finding]:
    """Run a group."""
    escapes, run = GROUPS[group]
    with tempfile.TemporaryDirectory(prefix="ma-", dir="/tmp") as directory:
        inside, outside = await run(Path(directory))
    return [
        Finding(each.name, each.tries, each.refused, each.without, inside[each.name], outside.get(each.name, ""))
        for each in escapes
    ]

"""Every point at which a daemon may fail, times every way to: `make fault`.

    python -m tests.fault.matrix [WORDS OF A POINT]

A clean conversation says which calls the flow makes; then the conversation is held again for each call and each fault.
`kill` is kill -9 of the daemon, and of its private Redis with it; `hang` stops the daemon past its lease while another
one on the same store takes over; `error` is an exception that nobody expects, or a cut connection; `temporary` a
TemporaryError. Prints a table; exit code 1 when one promise is broken."""

import asyncio
import resource
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from tests.fault.points import FAULTS, PEERS, POINTS, Fault, Point
from tests.fault.stage import Case, Row, stage
from tests.unprivileged import go_on

TURN = ("agent.", "session.", "workspaces.")
"""The calls that are tried with a real sandbox and the real CLI in it, too."""
REAL: tuple[Fault, ...] = ("kill", "hang", "error")
WORKERS = (("1", "light"), ("1", "light"), ("1", "light"), ("2", "light"), ("2", "light"), ("1", "real"), ("2", "real"))
"""How many hosts, and which agent. More than there are cores: those that hang mostly wait."""

CASE: TypeAdapter[Case] = TypeAdapter(Case)
ROW: TypeAdapter[Row] = TypeAdapter(Row)
LIST: TypeAdapter[list[Point]] = TypeAdapter(list[Point])


def cases(points: Sequence[Point]) -> Iterator[Case]:
    """What is tried at these points, and at those of the peers."""
    for point in [*points, *(Point(where) for where in PEERS if where != "mid turn")]:
        for fault in FAULTS:
            if _wanted(point, fault):
                yield Case(point, fault)
    # The third turn goes on with a session and with files that were there before.
    inside = [point for point in points if point.nth == 3 and point.where.split()[1].startswith(TURN) and point.number]
    for point in [*inside, Point("mid turn", 1), Point("mid turn", 3)]:
        for fault in REAL:
            yield Case(point, fault, real=True)


def _wanted(point: Point, fault: Fault) -> bool:
    """The state outside is the same after a call and before the next one: death and standstill need only the former,
    and the points that have a number. Whether an exception was expected matters once for each call."""
    if point.peer:
        return fault != "temporary"
    if fault == "temporary":
        return True
    if fault == "error":
        return point.nth == 1 and point.where.startswith("before ")
    return point.number > 0 or point.where.startswith("after ")


def kind(case: Case) -> tuple[str, str]:
    """Which worker can run it."""
    return "2" if case.fault == "hang" else "1", "real" if case.real else "light"


async def work(hosts: str, agent: str) -> None:
    """A worker of the matrix: the points first, then for each case that comes in its row, a line each."""
    loop = asyncio.get_running_loop()
    async with stage(hosts=int(hosts), real=agent == "real") as at:
        tell(LIST.dump_json(await at.record()).decode())
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            tell(ROW.dump_json(await at.run(CASE.validate_json(line))).decode())


@asynccontextmanager
async def worker(*which: str) -> AsyncIterator[tuple[list[Point], Callable[[Case], Awaitable[Row]]]]:
    """A worker process: the points that it met, and how it is given a case."""
    command = [sys.executable, "-m", "tests.fault.matrix", "worker", *which]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=1 << 22)
    assert process.stdin
    assert process.stdout
    ours, theirs = process.stdin, process.stdout

    async def run(case: Case) -> Row:
        ours.write(CASE.dump_json(case) + b"\n")
        said = await theirs.readline()
        return ROW.validate_json(said) if said else broken(case)

    try:
        yield LIST.validate_json(await theirs.readline()), run
    finally:
        ours.close()
        await process.wait()


def broken(case: Case) -> Row:
    """The run after which the world stood still."""
    return Row(case, False, False, 0, 0, 0, ("the worker gave up, see above",), (), 0.0)


async def main(words: str) -> int:
    """The whole matrix, or the points with these words in them."""
    began = time.monotonic()
    rows: list[Row] = []
    async with worker(*WORKERS[0]) as (points, _):
        wanted = [case for case in cases(points) if words in case.point.where]
    unmet = [call for _, calls in POINTS for call in calls if call not in {*PEERS, *(point.where for point in points)}]
    todo = {each: [case for case in wanted if kind(case) == each] for each in WORKERS}

    async def one(which: tuple[str, str]) -> None:
        while todo[which]:
            async with worker(*which) as (_, run):
                good = True
                while todo[which] and good:  # else in a new world
                    row = await run(todo[which].pop(0))
                    rows.append(row)
                    tell(line(row))
                    good = row.good()

    await asyncio.gather(*(one(which) for which in WORKERS))
    show(rows)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    tell(f"{len(rows)} runs in {time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU time")
    if unmet:
        tell(f"BROKEN: tests/fault/points.py names what no conversation meets: {', '.join(unmet)}")
    return 0 if all(row.good() for row in rows) and not unmet else 1


def line(row: Row) -> str:
    """One run in a line."""
    place = f"{row.case.point.where} {row.case.point.nth}{' real' if row.case.real else ''}"
    broken = "" if row.good() else f" BROKEN {'' if row.reached else 'not reached'}"
    counts = f"{row.replies}/{row.mails}" + (f", {row.repeats} again" if row.repeats else "")
    return f"{row.seconds:5.1f} s {row.case.fault:9} {place}: {counts}{broken} {'; '.join(row.faults + row.leftovers)}"


def show(rows: Sequence[Row]) -> None:
    """The table: the replies to the mails for each point and fault; for each point, what else there was."""
    table = Table("#", "point", "agent", *FAULTS, "duplicates", "out of order", "left over", title="replies/mails")
    keys = sorted({(row.case.point.number or 99, row.case.point.where, row.case.real) for row in rows})
    for number, where, real in keys:
        here = [row for row in rows if (row.case.point.where, row.case.real) == (where, real)]
        cells = [_cell([row for row in here if row.case.fault == fault]) for fault in FAULTS]
        disorder = sum("disorder" in words for row in here for words in row.faults)
        sums = sum(row.repeats for row in here), disorder, sum(len(row.leftovers) for row in here)
        table.add_row("" if number == 99 else str(number), where, "real" if real else "light", *cells, *map(str, sums))
    Console(width=150).print(table)
    for number, (words, _) in enumerate(POINTS, 1):
        tell(f"{number:2} {words}: {sum(row.case.point.number == number for row in rows)} runs")
    for row in rows:
        if not row.good():
            tell(line(row))


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "-"
    broken = sum(not row.good() for row in rows)
    said = f"{sum(row.replies for row in rows)}/{sum(row.mails for row in rows)}"
    return f"{said}, {broken} BROKEN" if broken else said


def tell(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    go_on("-m", "tests.fault.matrix", *sys.argv[1:])
    if sys.argv[1:2] == ["worker"]:
        asyncio.run(work(*sys.argv[2:]))
    else:
        sys.exit(asyncio.run(main(" ".join(sys.argv[1:]))))

"""Print every attempt, how it is refused, and what becomes of it where nothing refuses it."""

import sys

from tests.unprivileged import go_on

go_on("-m", "tests.fault.escapes", *sys.argv[1:])

import asyncio  # noqa: E402 - the rest is nothing for root
import logging  # noqa: E402

from tests.fault.escapes.survey import GROUPS, Finding, findings  # noqa: E402

WIDTHS = (36, 42, 40)


def line(one: Finding) -> str:
    cells = (one.name, one.inside, one.outside)
    short = [" ".join(cell.split())[: width - 1].ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)]
    return f"{'  ' if one.holds else '! '}{''.join(short)}{one.without}"


async def main() -> int:
    logging.disable()  # hostile requests are logged; here they are what is meant to be
    count, holes = 0, 0
    for group in sys.argv[1:] or GROUPS:
        print(f"\n{group}\n  {'attempt'.ljust(WIDTHS[0])}{'in the sandbox'.ljust(WIDTHS[1])}without")
        for one in await findings(group):
            print(line(one))
            count += 1
            holes += not one.holds
    print(f"\n{count} attempts, {holes} not as promised")
    return 1 if holes else 0


sys.exit(asyncio.run(main()))

"""Print every way to take too much, what comes of it, and whether that is as promised."""

import sys

from tests.unprivileged import go_on

go_on("-m", "tests.fault.limits", *sys.argv[1:])

import asyncio  # noqa: E402 - the rest is nothing for root
import logging  # noqa: E402
import re  # noqa: E402

from tests.fault.limits.rows import ROWS, Row, Seen, tried  # noqa: E402


def line(row: Row, seen: Seen) -> str:
    found = re.search(row.sees, seen.told) if row.sees else None
    outcome = f"the turn ends: {seen.ended}" if seen.ended else f"the agent goes on: {found and found[0]}"
    fault = seen.fault(row)
    return f"{'! ' if fault else '  '}{row.name:41}{fault or outcome}"


async def main() -> int:
    logging.disable()  # what ends a sandbox is logged; here it is what is meant to be
    faults = 0
    for row in ROWS:
        if all(word in row.name for word in sys.argv[1:]):
            seen = await tried(row)
            faults += bool(seen.fault(row))
            print(line(row, seen), flush=True)
    print(f"\n{faults} not as promised")
    return 1 if faults else 0


sys.exit(asyncio.run(main()))

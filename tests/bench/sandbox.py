"""The start of a sandbox with system call filter and limits, as a ratio to the same sandbox without them."""

from tests.unprivileged import go_on

go_on("-m", "tests.bench.sandbox")

import asyncio  # noqa: E402 - the rest is nothing for root
import shlex  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

from mailagent.adapters import bubblewrap  # noqa: E402
from mailagent.core.policy import LIMITED, Policy, bounds  # noqa: E402
from tests.sandboxes import policy_at  # noqa: E402

ROUNDS = 60
KINDS = ("bare", "an agent's", "a command's")


async def seconds(policy: Policy, place: Path, kind: str) -> float:
    """One start and end of /bin/true; an agent's has filter and limits, a command's those of a command, too."""
    place.mkdir()
    held = bubblewrap.launch(place, policy, ["/bin/true"])
    text, limits = held.launcher.read_text(), shlex.join(bounds(policy))
    if kind == "bare":
        held.launcher.write_text(text.replace("--seccomp 8", "").replace(f"{limits} {LIMITED}", ""))
    elif kind == "an agent's":
        held.launcher.write_text(text.replace(f"{limits} {LIMITED}", limits))
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(held.launcher, env={})
    assert await process.wait() == 0
    taken = time.perf_counter() - began
    await held.end()
    return taken


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        policy = policy_at(place)
        rounds = [
            [await seconds(policy, place / f"{turn}-{number}", kind) for number, kind in enumerate(KINDS)]
            for turn in range(ROUNDS)
        ]
    for kind, column in zip(KINDS, zip(*rounds, strict=True), strict=True):
        ratio = statistics.median(taken / row[0] for taken, row in zip(column, rounds, strict=True))
        print(f"{kind:12} {statistics.median(column) * 1000:5.1f} ms  ratio {ratio:.2f}")


asyncio.run(main())

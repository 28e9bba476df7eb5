"""From delivery to the job in Redis, beside a bare imapclient listener that only waits for Dovecot's notice.

    python -m tests.bench.idle [SAMPLES]

Each mail is delivered by APPEND when the one before is in the queue; the clock runs from the server's OK to it. Prints
milliseconds (p50 and p95) of both and the ratio of the p95s; the goal is at most 1.5."""

import asyncio
import queue
import statistics
import sys
import threading
import time
from collections.abc import Collection, Sequence

from imapclient import IMAPClient

from mailagent.core.job import Job
from mailagent.core.values import JobId
from mailagent.ports import CursorMove
from tests.bench.account import HOST, PASSWORD, USER, Account, account, delivered, request
from tests.unprivileged import go_on

PAUSES = (0.05, 0.3, 0.55, 0.8)
"""Between two mails: Dovecot gathers news for half a second, so that a fixed rhythm would meet it always alike."""


class Listener:
    """A connection that does nothing but IDLE; `heard` gets the moment of each EXISTS."""

    def __init__(self, port: int) -> None:
        self.heard: queue.Queue[float] = queue.Queue()
        self._client = IMAPClient(HOST, port, ssl=False, timeout=60)
        self._client.login(USER, PASSWORD)
        self._client.select_folder("INBOX", readonly=True)
        self._client.idle()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._done.is_set():
            news = self._client.idle_check(timeout=0.2)
            if any(line[1:2] == (b"EXISTS",) for line in news):
                self.heard.put(time.perf_counter())

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._client.idle_done()
        self._client.logout()


def note_accepted(at: Account) -> asyncio.Queue[float]:
    """The moments at which Redis has said that a job is stored."""
    accepted: asyncio.Queue[float] = asyncio.Queue()
    take_over = at.parts.jobs.take_over

    async def noted(jobs: Sequence[Job], move: CursorMove) -> Collection[JobId] | None:
        result = await take_over(jobs, move)
        for _ in jobs:
            accepted.put_nowait(time.perf_counter())
        return result

    at.parts.jobs.take_over = noted  # type: ignore[method-assign]
    return accepted


async def measure(at: Account, samples: int) -> tuple[list[float], list[float]]:
    """Seconds from delivery to the bare listener's notice, and to the job in Redis, for each sample."""
    accepted, ready = note_accepted(at), asyncio.Event()
    running = asyncio.create_task(at.intake.run(ready.set))
    await ready.wait()
    notices, jobs = [], []
    listener = await asyncio.to_thread(Listener, at.port)
    try:
        with at.box() as box:
            for number in range(1, samples + 2):
                await asyncio.to_thread(delivered, box, request(number))
                start = time.perf_counter()
                async with asyncio.timeout(30):
                    stored = await accepted.get()
                    heard = await asyncio.to_thread(listener.heard.get, timeout=30)
                if number > 1:  # the first starts the parser's child
                    jobs.append(stored - start)
                    notices.append(heard - start)
                await asyncio.sleep(PAUSES[number % len(PAUSES)])
    finally:
        await asyncio.to_thread(listener.close)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return notices, jobs


def line(name: str, seconds: list[float]) -> float:
    """Print a line; returns the p95."""
    p95 = statistics.quantiles(seconds, n=20, method="inclusive")[-1]
    print(f"{name:20} p50 {statistics.median(seconds) * 1000:6.1f} ms   p95 {p95 * 1000:6.1f} ms")
    return p95


async def main(samples: int) -> None:
    async with account() as at:
        notices, jobs = await measure(at, samples)
    server, ours = line("bare listener", notices), line("job in Redis", jobs)
    print(f"ratio of the p95s    {ours / server:.2f}            (goal: at most 1.5; {samples} mails)")


if __name__ == "__main__":
    go_on("-m", "tests.bench.idle", *sys.argv[1:])
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 60))

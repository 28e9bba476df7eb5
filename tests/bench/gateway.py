"""What the gateway adds to the first byte of an answer: an upstream on loopback, asked directly and through it.

    python -m tests.bench.gateway [ROUNDS]

Prints milliseconds from the request to the first byte of the stream, for the first request of a thread and later ones;
the account is in a Redis that waits for the disk. The goal is at most 5 ms more at the 95th percentile."""

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from mailagent.adapters import redis
from mailagent.adapters.gateway import Gateway
from mailagent.adapters.ledger import RedisLedger
from mailagent.adapters.redis_server import PrivateRedis
from mailagent.config import Model
from mailagent.core.quota import Limits, Payer, Spend
from mailagent.core.values import JobId, ThreadId
from tests.unprivileged import go_on

MANY = Spend(10**9, 10**12, 1e9)
LIMITS = Limits(
    turn_requests=10**9,
    turn_tokens=10**12,
    turn_dollars=1e9,
    thread_requests=10**9,
    thread_tokens=10**12,
    thread_dollars=1e9,
    requests_per_day=10**9,
    tokens_per_day=10**12,
    dollars_per_day=1e9,
)
USED = {"input_tokens": 10, "output_tokens": 1}
EVENTS = (
    {"type": "message_start", "message": {"type": "message", "usage": USED}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
)
STEP = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "region,revenue\n" * 90}


async def stream(request: web.Request) -> web.StreamResponse:
    """Read it all, then answer at once."""
    await request.read()
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for event in EVENTS:
        await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    return response


def body(size: int) -> bytes:
    """A request of about so many bytes."""
    asked: dict[str, Any] = {"model": "bench", "max_tokens": 32_000, "stream": True, "messages": []}
    while len(json.dumps(asked)) < size:
        asked["messages"].append({"role": "user", "content": [STEP]})
    return json.dumps(asked).encode()


async def first_byte(client: aiohttp.ClientSession, url: str, data: bytes) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    async with client.post(f"{url}/v1/messages", data=data) as response:
        await response.content.readany()
        took = time.perf_counter() - began
        assert response.status == 200
        await response.read()
    return took * 1000


async def compare(size: int, rounds: int, ask: tuple[Callable[[bytes], Any], Callable[[bytes], Any]]) -> None:
    """Both ways by turns, so that both meet the same machine; the first tenth warms up."""
    data, took = body(size), ([], [])  # type: tuple[bytes, tuple[list[float], list[float]]]
    for _ in range(rounds + rounds // 10):
        for way, times in zip(ask, took, strict=True):
            times.append(await way(data))
    found = [statistics.quantiles(times[rounds // 10 :], n=20) for times in took]
    (direct50, direct95), (gateway50, gateway95) = ((each[9], each[18]) for each in found)
    print(f"{len(data):>9,} bytes   direct p50 {direct50:6.2f} p95 {direct95:6.2f} ms", end="")
    print(f"   gateway p50 {gateway50:6.2f} p95 {gateway95:6.2f} ms", end="")
    print(f"   added p50 {gateway50 - direct50:5.2f} p95 {gateway95 - direct95:5.2f} ms")


async def main(rounds: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="ma-", dir="/tmp"))
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/v1/messages", stream)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    store = PrivateRedis(place / "state", place / "run")
    await store.start()
    client, _ = await redis.connect(store.url)
    gateway = Gateway(Model(base_url=url, name="bench"), "key", LIMITS, RedisLedger(client))
    await gateway.start()
    payer = Payer(JobId("job"), ThreadId("thread"), "anna@example.org", MANY)
    try:
        async with (
            gateway.listen(place / "s", payer),
            aiohttp.ClientSession() as direct,
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(place / "s"))) as through,
        ):
            ways = (
                lambda data: first_byte(direct, url, data),
                lambda data: first_byte(through, "http://model", data),
            )
            for size in (18_000, 100_000, 500_000):
                await compare(size, rounds, ways)
    finally:
        await gateway.stop()
        await client.aclose()
        await store.stop()
        await runner.cleanup()
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    go_on("-m", "tests.bench.gateway", *sys.argv[1:])
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))

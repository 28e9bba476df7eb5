"""The private redis-server: starts, keeps everything, and ends with us."""

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mailagent.adapters import redis_server
from mailagent.adapters.redis import RedisJobs, connect
from mailagent.adapters.redis_server import PrivateRedis
from mailagent.core.errors import ConfigError, TemporaryError
from tests.fakes.jobs import INBOX, a_job, composed


@pytest.fixture
async def server(short_path: Path) -> AsyncIterator[PrivateRedis]:
    server = PrivateRedis(short_path / "state", short_path / "run")
    yield server
    await server.stop()


def a_program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_it_is_fit_to_keep_mail(server: PrivateRedis) -> None:
    await server.start()
    client, warnings = await connect(server.url)
    async with client:
        assert warnings == []
        assert await client.config_get("port", "save") == {"port": "0", "save": ""}


async def test_only_its_owner_reaches_it(server: PrivateRedis, short_path: Path) -> None:
    await server.start()
    for directory in (short_path / "state" / "redis", short_path / "run" / "redis"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_server_that_still_loads_is_away_and_not_unfit(server: PrivateRedis, short_path: Path) -> None:
    await server.start()
    client, _ = await connect(server.url)
    async with client:
        pipeline = client.pipeline(transaction=False)
        for number in range(30_000):
            pipeline.rpush("list", number)
        await pipeline.execute()
    await server.stop()
    slow = a_program(short_path / "slow", 'exec redis-server "$@" --key-load-delay 50')  # microseconds
    again = PrivateRedis(short_path / "state", short_path / "run", slow)
    starting = asyncio.create_task(again.start())
    while not (short_path / "run/redis/redis.sock").exists():
        await asyncio.sleep(0)
    with pytest.raises(TemporaryError, match="loading"):
        await connect(server.url)
    await starting
    client, _ = await connect(server.url)
    await client.aclose()
    await again.stop()


async def test_a_kill_loses_nothing_and_the_client_goes_on(server: PrivateRedis) -> None:
    await server.start()
    client, _ = await connect(server.url)
    async with client:
        jobs = RedisJobs(client, owner="a", lease_seconds=0.1, retention_seconds=60)
        for name in ("j1", "j2", "j3"):
            await jobs.accept(a_job(name, f"t{name}"), None)
        assert await jobs.begin(INBOX, 3, 1.0) == 3
        first = await jobs.claim("turns", 0)
        assert first
        await jobs.hand_over(first, composed(first.job))
        at_work = await jobs.claim("turns", 0)
        assert at_work
        os.kill((await client.info())["process_id"], signal.SIGKILL)
        await server.wait()
        with pytest.raises(TemporaryError):
            await jobs.cursor(INBOX)
        await server.start()
        assert await jobs.cursor(INBOX) == 3
        assert {name: number for name, number in (await jobs.counts()).items() if number} == {"turns": 2, "delivery": 1}
        assert await jobs.find("<reply-j1@example.org>") == composed(a_job("j1", "tj1"))
        claims = [await jobs.claim("turns", 20.0), await jobs.claim("turns", 20.0)]
        assert {claim.job.id for claim in claims if claim} == {"j2", "j3"}


async def test_a_stop_ends_it_and_keeps_the_data(server: PrivateRedis) -> None:
    await server.start()
    async with Redis.from_url(server.url) as client:
        await client.set("a", "1")
        pid = (await client.info())["process_id"]
    await server.stop()
    await server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await server.start()
    async with Redis.from_url(server.url) as client:
        assert await client.get("a") == b"1"


async def test_it_is_ready_when_all_is_loaded(server: PrivateRedis, short_path: Path) -> None:
    """Redis says LOADING to those who ask after each 1024 commands that it reads back."""
    await server.start()
    async with Redis.from_url(server.url) as client, client.pipeline(transaction=False) as writes:
        for number in range(16_000):
            writes.set(f"key-{number}", "x")
        await writes.execute()
    await server.stop()
    slow = '[ "$1" = --version ] || slow="--key-load-delay 50"; exec redis-server "$@" $slow'
    program = a_program(short_path / "slow-redis", slow)
    slow_server = PrivateRedis(short_path / "state", short_path / "run", program)
    await slow_server.start()
    try:
        client, _ = await connect(server.url)
        async with client:
            assert await client.dbsize() == 16_000
    finally:
        await slow_server.stop()


async def test_a_log_torn_by_a_crash_is_read_up_to_the_tear(server: PrivateRedis, short_path: Path) -> None:
    await server.start()
    async with Redis.from_url(server.url) as client:
        await client.set("a", "1")
        await client.set("b", "2")
    await server.stop()
    (log,) = (short_path / "state" / "redis" / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 3)
    await server.start()
    async with Redis.from_url(server.url) as client:
        assert await client.mget("a", "b") == [b"1", None]


async def test_it_says_why_it_does_not_start(server: PrivateRedis, short_path: Path) -> None:
    await server.start()
    await server.stop()
    (short_path / "state" / "redis" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(ConfigError, match=r"redis-server does not start: .*AOF manifest"):
        await server.start()


async def test_a_missing_program_names_the_package(short_path: Path) -> None:
    with pytest.raises(ConfigError, match="apt-get install redis-server"):
        await PrivateRedis(short_path, short_path, str(short_path / "nowhere")).start()


async def test_an_old_program_names_the_package(short_path: Path) -> None:
    old = a_program(short_path / "old-redis", "echo Redis server v=6.2.14 sha=00000000:0 bits=64")
    with pytest.raises(ConfigError, match="7 or newer"):
        await PrivateRedis(short_path, short_path, old).start()


async def test_two_servers_never_share_a_directory(
    server: PrivateRedis, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "_LOCK_SECONDS", 0.1)
    await server.start()
    with pytest.raises(TemporaryError, match="not ended"):
        await PrivateRedis(short_path / "state", short_path / "run").start()
    async with Redis.from_url(server.url) as client:
        assert await client.ping()


async def test_it_ends_with_a_daemon_that_is_killed(server: PrivateRedis, short_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from mailagent.adapters.redis_server import PrivateRedis

async def main():
    await PrivateRedis(Path(sys.argv[1]), Path(sys.argv[2])).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(short_path / "state"), str(short_path / "run")),
        stdout=asyncio.subprocess.PIPE,
    )
    assert daemon.stdout
    assert await daemon.stdout.readline() == b"ready\n"
    async with Redis.from_url(server.url) as client:
        await client.set("a", "1")
        daemon.kill()
        await daemon.wait()
        await server.start()
        assert await client.get("a") == b"1"

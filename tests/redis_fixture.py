"""A private real redis-server for tests: one per run, on a unix socket, empty at the start of each test."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of the server. It keeps a log, as mailagent asks of every server, but does not wait for the disk."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        socket = Path(directory) / "redis.sock"
        command = ["setpriv", "--pdeathsig", "KILL", "redis-server", "--port", "0", "--unixsocket", str(socket)]
        command += ["--dir", directory, "--appendonly", "yes", "--appendfsync", "no", "--save", ""]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        url = f"unix://{socket}"
        retry = Retry(ConstantBackoff(0.01), 1000)
        try:
            with redis.Redis.from_url(url, retry=retry, retry_on_error=[redis.ConnectionError]) as client:
                client.ping()
            yield url
        finally:
            server.kill()
            server.wait()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of a server without data."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server

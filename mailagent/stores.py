"""Where work is kept, as the settings say: Redis, the jobs in it, and the files beside it."""

import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from mailagent.adapters import redis
from mailagent.adapters.blobs import DiskBlobs
from mailagent.adapters.redis import Redis, RedisJobs
from mailagent.adapters.redis_server import PrivateRedis
from mailagent.adapters.s3 import S3Blobs
from mailagent.config import Config
from mailagent.ports import Blobs

log = logging.getLogger(__name__)

DAY = 86400


@asynccontextmanager
async def client(config: Config) -> AsyncIterator[tuple[Redis, PrivateRedis]]:
    """A client of the configured server, or of the private one, started and living as long."""
    async with AsyncExitStack() as stack:
        server = private_redis(config)
        if not config.redis.url:
            await server.start()
            stack.push_async_callback(server.stop)
        connected, warnings = await redis.connect(config.redis.url or server.url)
        stack.push_async_callback(connected.aclose)
        for warning in warnings:
            log.warning("redis: %s", warning)
        yield connected, server


def private_redis(config: Config) -> PrivateRedis:
    """The server that is ours when none is configured; not started."""
    return PrivateRedis(Path(config.storage.state_dir), Path(config.storage.runtime_dir), config.redis.server)


def blobs(config: Config) -> Blobs:
    """The store of files that the settings name."""
    where, secret = config.storage.blobs, config.secrets
    if where.startswith("s3://"):
        return S3Blobs(
            where, secret.aws_access_key_id.get_secret_value(), secret.aws_secret_access_key.get_secret_value()
        )
    return DiskBlobs(Path(where or Path(config.storage.state_dir) / "blobs"))


def jobs(config: Config, client: Redis) -> RedisJobs:
    return RedisJobs(
        client,
        owner=f"{socket.gethostname()}-{os.getpid()}",
        lease_seconds=config.redis.lease_seconds,
        retention_seconds=config.storage.retention_days * DAY,
    )

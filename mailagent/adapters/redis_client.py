"""A client of a Redis that is fit to keep mail, its errors as ours, and the scripts that run in it."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from importlib import resources
from typing import Any, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
)

from mailagent.core.errors import ConfigError, TemporaryError

_AWAY = (ConnectionError, TimeoutError, ReadOnlyError, OutOfMemoryError, ClusterError, RedisClusterException)
_PASSING = ("MISCONF", "BUSY ", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")


async def connect(url: str) -> tuple[Redis, list[str]]:
    """A client for a server that is fit to keep mail, and warnings about what could be better.

    Raises ConfigError naming every setting that must change, TemporaryError when the server cannot be reached."""
    try:
        client = _client(url)
    except ValueError as error:
        raise ConfigError(f"redis.url is not valid: {error}") from error
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        with store_errors():
            warnings = await _check(client)
        stack.pop_all()
    return client, warnings


def _client(url: str) -> Redis:
    """For the schemes of redis-py, and for redis+sentinel://HOST:PORT,HOST:PORT/SERVICE and redis+cluster://HOST:PORT,…,
    with rediss for TLS."""
    # A script that redis-py sent again after a lost answer would run twice: every failure goes to the caller.
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "surrogatepass",
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": 10,
    }
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        return Redis.from_url(url, **options)
    login, at, hosts = parts.netloc.rpartition("@")
    nodes = [(host, int(port)) for host, _, port in (each.rpartition(":") for each in hosts.split(","))]
    options |= parse_url(f"{scheme}://{login}{at}/?{parts.query}")
    secure = options.pop("connection_class", None) is not None
    if kind == "sentinel":
        sentinel: Any = Sentinel(nodes, socket_timeout=10)  # type: ignore[no-untyped-call]
        options |= {"redis_class": _Sentineled, "ssl": secure}
        return cast("Redis", sentinel.master_for(parts.path.strip("/"), **options))
    if kind == "cluster":
        # Another class with all the commands that we use: our keys are in one slot, so on one node.
        return cast("Redis", RedisCluster(startup_nodes=[ClusterNode(*node) for node in nodes], ssl=secure, **options))
    raise ValueError(f"unknown scheme {parts.scheme}")


class _Sentineled(Redis):
    """Closes the connections to the sentinels with its own."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        for sentinel in self.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
            await sentinel.aclose()


async def _check(client: Redis) -> list[str]:
    try:
        # INFO, since hosted servers often forbid CONFIG.
        info = await client.info()
    except ConnectionError as error:
        if isinstance(error.__cause__ or error, AuthenticationError):
            raise ConfigError(f"redis.url: the server refuses the user or the password: {error}") from error
        raise
    if info["loading"]:  # until it has, it says that it keeps no log
        raise BusyLoadingError("it is loading what it kept")
    faults = []
    version = str(info["redis_version"])
    if int(version.partition(".")[0]) < 7:
        faults.append(f"redis.url: the server is Redis {version}, but 7 or newer is needed: upgrade it")
    if info["maxmemory_policy"] != "noeviction":
        faults.append("redis.url: the server may drop keys when memory is short: set maxmemory-policy noeviction")
    if not info["aof_enabled"]:
        faults.append("redis.url: the server does not log its writes: set appendonly yes")
    if faults:
        raise ConfigError(*faults)
    return await _warnings(client)


async def _warnings(client: Redis) -> list[str]:
    try:
        fsync = (await client.config_get("appendfsync"))["appendfsync"]
    except (NoPermissionError, ResponseError):
        return ["redis.url: the server does not tell its appendfsync; with less than always a crash may repeat work"]
    if fsync == "always":
        return []
    return [f"redis.url: with appendfsync {fsync} a crash of the server may repeat work: set appendfsync always"]


@contextmanager
def store_errors() -> Iterator[None]:
    """Maps what Redis says when it is away, busy, full or read-only to TemporaryError; what else it says is a bug."""
    try:
        yield
    except _AWAY as error:
        raise TemporaryError(f"Redis: {error}") from error
    except ResponseError as error:
        if not str(error).startswith(_PASSING):
            raise
        raise TemporaryError(f"Redis: {error}") from error


def script(client: Redis, *names: str, flags: str = "") -> AsyncScript:
    """The script that is written in these files, one after the other. With the flag allow-oom it runs in a server that
    is full, too: it must only take away (redis.io/docs/develop/interact/programmability/eval-intro, Script flags)."""
    folder = resources.files("mailagent.adapters") / "redis_scripts"
    text = "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
    return client.register_script(text.replace("#!lua", f"#!lua flags={flags}", 1))

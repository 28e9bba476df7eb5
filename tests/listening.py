"""A server of a test's own on loopback."""

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def free_port() -> int:
    """A port of loopback for a server that cannot choose one itself. Below those that the kernel gives away on its own
    (ip(7), ip_local_port_range): no connection of another test takes it before the server does."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A server of a test's own; yields its port, and cuts what is still open at the end."""
    sessions: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                await handler(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sessions[asyncio.create_task(session(reader, writer))] = writer

    async with await asyncio.start_server(begin, host, 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
        for writer in sessions.values():
            writer.transport.abort()
        await asyncio.gather(*sessions)

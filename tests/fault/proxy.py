"""A TCP relay that does what networks do: it delays, drops, closes one half, and cuts after so many bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from tests.listening import listening

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Pair = tuple[asyncio.StreamWriter, asyncio.StreamWriter]
Act = Callable[[], Awaitable[bool]]
CHUNK = 1 << 16


class Proxy:
    """Relays what comes to `port` to what `dial` opens."""

    def __init__(self, dial: Callable[[], Awaitable[Streams]]) -> None:
        self.port = 0
        self.delay = 0.0
        """Seconds that every chunk waits, in both directions."""
        self.trap: tuple[bytes, int, Act] | None = None
        """Once the client has said these words and the server so many bytes after that, this is awaited, once; False
        from it cuts the connection."""
        self._dial = dial
        self._connections: dict[Pair, list[asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def drop(self) -> int:
        """Cut every connection, both ways and without a word; returns how many there were."""
        for pair, ways in self._connections.items():
            for way in ways:
                way.cancel()
            for writer in pair:
                writer.transport.abort()
        return len(self._connections)

    def half_close(self) -> None:
        """Tell every client that the server says no more; what the client says still goes through."""
        for client, _ in self._connections:
            if client.can_write_eof() and not client.is_closing():
                client.write_eof()

    def cut_after(self, words: bytes, size: int) -> None:
        """Cut the connection whose client says these words, `size` bytes into the server's answer."""

        async def cut() -> bool:
            return False

        self.trap = words, size, cut

    async def relay(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            far, server = await self._dial()
        except OSError:
            return
        counted: list[int] = []
        ways = [
            asyncio.create_task(self._pass_on(reader, server, counted, from_client=True)),
            asyncio.create_task(self._pass_on(far, client, counted, from_client=False)),
        ]
        self._connections[client, server] = ways
        try:
            await asyncio.wait(ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            del self._connections[client, server]
            server.transport.abort()
            with suppress(OSError):
                await server.wait_closed()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: list[int], *, from_client: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if from_client and self.trap and self.trap[0] in data:
                    counted[:] = [self.trap[1]]
                if not from_client and counted and not await self._spring(data, writer, counted):
                    break
                writer.write(data)
                await writer.drain()
            if not writer.is_closing() and writer.can_write_eof():
                writer.write_eof()

    async def _spring(self, data: bytes, writer: asyncio.StreamWriter, counted: list[int]) -> bool:
        """Count down; at zero pass on what was still allowed, and do what was set; False when that is to cut."""
        counted[0] -= len(data)
        if counted[0] > 0 or not self.trap:
            return True
        (_, _, act), self.trap = self.trap, None
        left, counted[:] = len(data) + counted[0], []
        writer.write(data[:left])
        await writer.drain()
        if await act():
            writer.write(data[left:])
            return True
        writer.transport.abort()
        return False


@asynccontextmanager
async def relaying(dial: Callable[[], Awaitable[Streams]]) -> AsyncIterator[Proxy]:
    """The relay, listening."""
    proxy = Proxy(dial)
    async with listening(proxy.relay) as proxy.port:
        yield proxy
        proxy.drop()

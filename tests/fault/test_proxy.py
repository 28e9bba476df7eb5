"""The relay: what goes through it when nothing is wrong, and each thing that can be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.fault.proxy import Proxy, relaying
from tests.listening import listening


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()


@asynccontextmanager
async def through_a_relay() -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    async with (
        asyncio.timeout(20),
        listening(_echo) as port,
        relaying(lambda: asyncio.open_connection("127.0.0.1", port)) as proxy,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        yield proxy, reader, writer
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_what_is_said_goes_through_both_ways_and_so_does_the_end() -> None:
    async with through_a_relay() as (proxy, reader, writer):
        writer.write(b"x" * 60_000 + b"\n")
        assert len(await reader.readline()) == 60_001
        writer.write_eof()
        assert await reader.read() == b""
        assert len(proxy) <= 1


async def test_a_dropped_connection_is_cut_both_ways() -> None:
    async with through_a_relay() as (proxy, reader, _):
        assert proxy.drop() == 1
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            return


async def test_half_closed_the_client_hears_nothing_more() -> None:
    async with through_a_relay() as (proxy, reader, writer):
        proxy.half_close()
        assert await reader.read() == b""
        writer.write(b"still heard\n")
        await writer.drain()
        assert len(proxy) == 1


async def test_it_cuts_after_so_many_bytes_of_the_answer() -> None:
    async with through_a_relay() as (proxy, reader, writer):
        proxy.cut_after(b"FETCH", 7)
        writer.write(b"quiet\n")
        assert await reader.readline() == b"quiet\n"
        writer.write(b"FETCH and more\n")
        try:
            assert await reader.read() in (b"FETCH a", b"")  # a reset may overtake what came before it
        except ConnectionResetError:
            return


async def test_a_delay_holds_back_what_is_said() -> None:
    async with through_a_relay() as (proxy, reader, writer):
        proxy.delay = 600
        writer.write(b"late\n")
        await writer.drain()
        late = asyncio.create_task(reader.readline())
        done, _ = await asyncio.wait({late}, timeout=0.2)
        assert not done
        late.cancel()

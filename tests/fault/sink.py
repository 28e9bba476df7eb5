"""A mail server that takes every reply and keeps a history; a test may interfere before and after the end of DATA."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.listening import listening

END = b"\r\n.\r\n"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A mail that was taken, as it came."""

    at: float
    recipient: str
    data: bytes


class Sink:
    """What was taken, in its order. `meddle` is awaited once, at its moment; False from it cuts the connection."""

    def __init__(self) -> None:
        self.port = 0
        self.history: list[Delivery] = []
        self.meddle: tuple[str, int, Callable[[], Awaitable[bool]]] | None = None
        """The moment, how many mails are let pass before, and what is done."""
        self.file: Callable[[bytes], Awaitable[None]] | None = None
        """Puts a copy of what was taken into the sender's Sent folder."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection (RFC 5321, what our client says of it)."""
        recipients: list[str] = []
        writer.write(b"220 sink.test\r\n")
        while line := await reader.readline():
            word = line[:4].upper()
            if word == b"DATA":
                if not await self._moment("before the end of DATA"):
                    return
                writer.write(b"354 go on\r\n")
                if not await self._data(reader, writer, recipients):
                    return
                continue
            if word == b"MAIL":
                recipients = []
            if word == b"RCPT" and (found := re.search(rb"<(.*)>", line)):
                recipients.append(found[1].decode())
            writer.write(b"221 bye\r\n" if word == b"QUIT" else b"250 sink.test\r\n")
            if word == b"QUIT":
                return

    async def _data(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recipients: list[str]) -> bool:
        data = b"\r\n"
        while not data.endswith(END):
            line = await reader.readline()
            if not line:
                return False
            data += line
        mail = data[2:].removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
        self.history += [Delivery(time.time(), recipient, mail) for recipient in recipients]
        if self.file:
            await self.file(mail)
        if not await self._moment("after the end of DATA"):
            return False
        writer.write(b"250 taken\r\n")
        await writer.drain()
        return await self._moment("after 250")

    async def _moment(self, moment: str) -> bool:
        if self.meddle is None or self.meddle[0] != moment:
            return True
        _, left, act = self.meddle
        if left:
            self.meddle = moment, left - 1, act
            return True
        self.meddle = None
        return await act()


@asynccontextmanager
async def sinking() -> AsyncIterator[Sink]:
    """The server, listening."""
    sink = Sink()
    async with listening(sink.serve) as sink.port:
        yield sink

"""A name server on loopback with the TXT records of a test."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

TTL = 60


class _Answers(asyncio.DatagramProtocol):
    def __init__(self, records: Mapping[str, str | None]) -> None:
        self._records = records
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, sender: tuple[str | int, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text()
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        record = self._records.get(name, "")
        if record is None:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif record:
            strings = " ".join(f'"{record[n : n + 200]}"'.replace(";", r"\;") for n in range(0, len(record), 200))
            response.answer.append(dns.rrset.from_text(name, TTL, "IN", "TXT", strings))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        assert self._transport is not None
        self._transport.sendto(response.to_wire(), sender)


@asynccontextmanager
async def name_server(records: Mapping[str, str | None]) -> AsyncIterator[str]:
    """Its address and port; None in `records` is a name whose own servers do not answer."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Answers(records), local_addr=("127.0.0.1", 0))
    try:
        host, port = transport.get_extra_info("sockname")
        yield f"{host}:{port}"
    finally:
        transport.close()

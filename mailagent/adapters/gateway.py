"""The only way from a sandbox to the model: one unix socket per session that lets through POST /v1/messages alone."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mailagent.adapters.charges import Charges
from mailagent.adapters.endings import whole
from mailagent.adapters.processes import is_sent_files
from mailagent.adapters.space import Part, Space
from mailagent.adapters.upstream import Body, Entry, Upstream, refusal
from mailagent.config import Model
from mailagent.core.errors import TemporaryError
from mailagent.core.metering import Prices, Tokens, most
from mailagent.core.quota import Limits, Payer, Spend, accounts, used_up
from mailagent.core.request import Admitted, NotAdmittedError, admit
from mailagent.ports import Ledger

log = logging.getLogger(__name__)
protocol = logging.getLogger(f"{__name__}.protocol")
# Bad HTTP is the sandbox's doing, and it could fill the log with it.
protocol.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))

MAX_BODY = 32 << 20
"""The most that the Messages API takes, and what the bodies of one session may take together. There is no bound over
all sessions, since one of them could take what the others need: their number bounds it."""
MAX_AT_ONCE = 4
"""Requests of one session under way together: the CLI makes one or two, code that floods us makes more."""
MAX_CONNECTIONS = 16
BODY_SECONDS = 30.0
"""How long a request may take to arrive: it comes from this machine."""
IDLE_SECONDS = 75.0
LOOK_SECONDS = 1.0
READ_BYTES = 1 << 18
SETTLE_SECONDS = 2.0
SMALL = 1 << 20
BYTES_PER_TOKEN = 4
"""Of usual text."""


@dataclass(slots=True)
class Meter:
    """What one session has used so far, and when it first asked (Unix seconds)."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    first_request_at: float = 0.0
    refused: str = ""
    """Why the turn may use no more, in words for the sender; "" while it may."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def settled(self) -> None:
        """Wait until what is under way is counted too, but not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self.idle.wait()

    def add(self, tokens: Tokens, dollars: float) -> None:
        """Another answer is over."""
        self.input_tokens += tokens.read
        self.output_tokens += tokens.output
        self.dollars += dollars


class Gateway:
    """Opens sockets; every request on them is bounded, admitted, charged, and passed on."""

    def __init__(self, model: Model, key: str, limits: Limits, ledger: Ledger) -> None:
        self.model = model
        self.limits = limits
        self.charges = Charges(ledger)
        self.upstream = Upstream(model, key)
        self.one_large = asyncio.Lock()  # to read, to judge and to write it anew takes several times its size
        self.prices = Prices(model.price_input, model.price_output, model.price_cache_write, model.price_cache_read)

    async def start(self) -> None:
        """Open the pool of connections to the model's server. ConfigError when that cannot be."""
        await self.upstream.start()

    async def stop(self) -> None:
        """Close the pool."""
        await self.upstream.stop()

    @asynccontextmanager
    async def listen(self, socket: Path, payer: Payer) -> AsyncIterator[Meter]:
        """Serve one session on this unix socket, mode 0600, until the context ends; yields its meter."""
        line = _Line(self, payer)
        server = _Server(
            line.answer,
            access_log=None,
            logger=protocol,
            keepalive_timeout=IDLE_SECONDS,
            read_bufsize=READ_BYTES,
            auto_decompress=False,
            handler_cancellation=True,  # who hangs up does not let the model go on at our cost
        )

        def accept() -> asyncio.Protocol:
            return server() if max(server.given, len(server.connections)) < MAX_CONNECTIONS else _HangUp()

        socket.unlink(missing_ok=True)
        listening = await asyncio.get_running_loop().create_unix_server(accept, str(socket))
        looking = asyncio.create_task(server.look())
        try:
            socket.chmod(0o600)
            yield line.meter
        finally:
            looking.cancel()
            listening.close()
            await server.shutdown(1)
            await line.meter.settled()
            socket.unlink(missing_ok=True)


class _Server(web.Server):
    """Knows how many connections it was given, from the moment when they are accepted: many can be before the first of
    them is made, and is among `connections` until what was asked on it has ended."""

    given = 0

    def __call__(self) -> web.RequestHandler:
        self.given += 1
        return super().__call__()

    async def look(self) -> None:
        """Hang up where files are sent. Code can keep us from reading by asking more than we have answered; what it
        sends then would lie on the disk in nobody's name, and no watch over its processes would find it."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for transport in [each.transport for each in self.connections if each.transport]:
                if is_sent_files(transport.get_extra_info("socket").fileno()):
                    transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self.given -= 1
        super().connection_lost(handler, exc)


class _Line:
    """One session's socket: who pays, and what is under way on it."""

    def __init__(self, gateway: Gateway, payer: Payer) -> None:
        self.meter = Meter()
        self.meter.idle.set()
        self._gateway = gateway
        self._payer = payer
        self._accounts = accounts(payer, gateway.limits)
        self._space = Space(MAX_BODY)
        self._asked = 0
        self._at_once = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Whatever is asked on the socket comes here."""
        if request.method != "POST" or request.rel_url.raw_path != "/v1/messages":
            return refusal(404, "not_found_error", "only POST /v1/messages is open")
        if self._at_once >= MAX_AT_ONCE:
            again = {"retry-after": "1"}
            return refusal(429, "rate_limit_error", f"no more than {MAX_AT_ONCE} requests at once", again)
        self._at_once += 1
        self.meter.idle.clear()
        try:
            return await self._counted(request)
        finally:
            self._at_once -= 1
            if not self._at_once:
                self.meter.idle.set()

    async def _counted(self, request: web.BaseRequest) -> web.StreamResponse:
        """Counted before a byte is read, since those that are not admitted cost time too, and no account has them."""
        if self._asked >= self._gateway.limits.turn_requests:
            return self._full(used_up(self._accounts[0], Spend(self._asked), time.time()))
        self._asked += 1
        try:
            # All of it before the first byte: of two that have the half of what they need, neither could go on.
            async with self._space.take(_most(request)) as part:
                return await self._charged(request, part)
        except NotAdmittedError as error:
            return refusal(error.status, error.kind, str(error))
        except TimeoutError:
            return refusal(408, "timeout_error", "the request did not arrive in time")

    async def _admitted(self, request: web.BaseRequest) -> Admitted:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await _received(request)
        model = self._gateway.model
        rules = (model.name, model.max_tokens, model.context_tokens)
        if len(raw) < SMALL:
            return admit(raw, *rules)
        # A thread costs more than most requests do, and saves the others from waiting for a large one.
        async with self._gateway.one_large:
            return await whole(asyncio.to_thread(admit, raw, *rules))  # it takes its memory until it is over

    async def _charged(self, request: web.BaseRequest, part: Part) -> web.StreamResponse:
        """Charged with the most that it may use before it is made, with what it used afterwards."""
        gateway, admitted = self._gateway, await self._admitted(request)
        part.keep(len(admitted.data))
        tokens = most(admitted.reads, admitted.writes, gateway.prices)
        usual = Tokens(input=len(admitted.data) // BYTES_PER_TOKEN)
        body = Body(admitted.data, lambda: part.keep(0))
        del admitted
        entry = Entry(uuid4().hex, self._payer.job, self._payer.thread, gateway.model.name, tokens, usual)
        try:
            full = await gateway.charges.charge(entry.id, self._accounts, tokens.spend(gateway.prices))
        except TemporaryError as error:
            log.warning("no request to the model without an account: %s", error)
            return refusal(503, "api_error", "the account cannot be reached")
        if full:
            return self._full(used_up(*full, time.time()))
        self.meter.requests += 1
        self.meter.first_request_at = self.meter.first_request_at or time.time()
        try:
            return await gateway.upstream.answer(request, body, entry)
        finally:
            await self._settle(entry)

    async def _settle(self, entry: Entry) -> None:
        spend = entry.tokens.spend(self._gateway.prices)
        entry.dollars = round(spend.dollars, 6)
        self.meter.add(entry.tokens, spend.dollars)
        entry.write()
        try:
            await self._gateway.charges.settle(entry.id, spend)
        except TemporaryError as error:
            log.warning("request %s stays charged with the most that it might have used: %s", entry.id, error)

    def _full(self, reason: str) -> web.Response:
        self.meter.refused = reason
        return refusal(403, "permission_error", reason)


def _most(request: web.BaseRequest) -> int:
    """How many bytes the body may have. Raises NotAdmittedError for one that nobody would take."""
    if "content-encoding" in request.headers:
        raise NotAdmittedError("the request must not be compressed", 415)
    size = request.content_length
    if size is not None and size > MAX_BODY:
        raise _too_large()
    return MAX_BODY if size is None else size


async def _received(request: web.BaseRequest) -> bytearray:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            raise _too_large()
    return body


def _too_large() -> NotAdmittedError:
    return NotAdmittedError(f"the request has more than {MAX_BODY} bytes", 413, "request_too_large")


class _HangUp(asyncio.Protocol):
    """What is said on a connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing."""
        transport.close()

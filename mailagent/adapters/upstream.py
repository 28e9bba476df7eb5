"""The model's server: a pool of connections; a request is passed on with the key, its answer back as it comes."""

import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field

import aiohttp
from aiohttp import web

from mailagent.adapters.imap import tls_context
from mailagent.config import Model
from mailagent.core.metering import Tally, Tokens
from mailagent.core.request import betas

log = logging.getLogger(__name__)
audit = logging.getLogger("mailagent.audit")

PASSED_ON = ("accept", "anthropic-version")
"""Headers of the sandbox that reach the model as they are; anthropic-beta is looked at, all others are dropped."""

PASSED_BACK = ("content-type", "request-id", "retry-after", "x-should-retry")
UNASKED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
"""There was no connection that a request could have gone through."""
CONNECT_SECONDS = 20.0
SOON_MS = 10_000
PIECE = 1 << 18


@dataclass(slots=True)
class Entry:
    """One request as the audit trail has it: nothing of the mail is in it. `tokens` are the most that it may use, until
    it is known what it did use; `usual` is what one like it reads."""

    id: str
    job: str
    thread: str
    model: str
    tokens: Tokens
    usual: Tokens
    status: int = 0
    upstream_id: str = ""
    error: str = ""
    dollars: float = 0.0
    first_byte_ms: int = 0
    total_ms: int = 0
    began: float = field(default_factory=time.monotonic)

    def elapsed(self) -> int:
        """Milliseconds since it was asked."""
        return round((time.monotonic() - self.began) * 1000)

    def write(self) -> None:
        """Into the log, as one JSON object."""
        self.total_ms = self.elapsed()
        told = {name: value for name, value in asdict(self).items() if name not in ("began", "usual")}
        audit.info("%s", json.dumps(told))

    def failed(self) -> None:
        """The server broke it off. One that is out of order does so soon, and for nothing: many tries may not use up
        what the sender may use. Later it may have worked all the time, and be paid."""
        if self.elapsed() < SOON_MS:
            self.tokens = self.usual


class Body:
    """What is sent, in memory for no longer than that takes: an answer may take minutes."""

    def __init__(self, data: bytes, sent: Callable[[], None]) -> None:
        self.data = data
        self._sent = sent

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it; a large body in one piece would keep all others waiting."""
        for start in range(0, len(self.data), PIECE):
            yield self.data[start : start + PIECE]
        self.data = b""
        self._sent()


class Upstream:
    """Holds the key and the connections, which no sandbox sees."""

    def __init__(self, model: Model, key: str) -> None:
        self._model = model
        self._key = key
        self._pool: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the pool; proxies of the environment are honoured. ConfigError when ca_file is no good."""
        tls = tls_context("tls", self._model.ca_file)
        self._pool = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls or True, limit=0),
            timeout=aiohttp.ClientTimeout(total=self._model.timeout_seconds, connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
        )

    async def stop(self) -> None:
        """Close the pool."""
        if self._pool:
            await self._pool.close()

    async def answer(self, request: web.BaseRequest, body: Body, entry: Entry) -> web.StreamResponse:
        """Ask the model and pass its answer back; `entry` says afterwards how that went and what it used."""
        try:
            async with self._asked(request, body) as upstream:
                entry.status, entry.upstream_id = upstream.status, upstream.headers.get("request-id", "")
                if 300 <= upstream.status < 400:  # to where nobody configured
                    entry.tokens = entry.usual = Tokens()
                    raise aiohttp.ClientPayloadError(f"a redirection, {upstream.status}")
                return await _passed_back(request, upstream, entry)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("the model cannot be reached: %s", error or type(error).__name__)
            entry.error = type(error).__name__
            if isinstance(error, UNASKED):
                entry.tokens = Tokens()
            elif not isinstance(error, TimeoutError):
                entry.failed()
            return refusal(502, "api_error", "the model cannot be reached")

    def _asked(self, request: web.BaseRequest, body: Body) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        assert self._pool is not None, "start() comes first"  # noqa: S101
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        # A compressed stream would be held back until a block of it is full.
        headers |= {"accept-encoding": "identity", "anthropic-beta": betas(request.headers.get("anthropic-beta", ""))}
        if self._key:
            headers["x-api-key"] = self._key
        url = f"{self._model.base_url.rstrip('/')}/v1/messages"
        query = {"beta": "true"} if request.query.get("beta") == "true" else {}
        headers |= {"content-type": "application/json", "content-length": str(len(body.data))}
        return self._pool.post(url, data=body.pieces(), params=query, headers=headers, allow_redirects=False)


async def _passed_back(request: web.BaseRequest, upstream: aiohttp.ClientResponse, entry: Entry) -> web.StreamResponse:
    """The answer, piece by piece. Half an answer must not look like a whole one: then the connection is cut."""
    back = {name: upstream.headers[name] for name in PASSED_BACK if name in upstream.headers}
    response, tally = web.StreamResponse(status=upstream.status, headers=back), Tally()
    try:
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
            entry.first_byte_ms = entry.first_byte_ms or entry.elapsed()
            tally.feed(chunk)
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        entry.error = type(error).__name__
        if request.transport and not request.transport.is_closing():
            log.warning("an answer of the model broke off: %s", error or entry.error)
            request.transport.abort()
    finally:
        # What it wrote until it broke off, its size does not tell: thoughts that are not shown are not sent.
        if tally.failed:
            entry.failed()
        entry.tokens = tally.tokens(entry.tokens) if upstream.status == 200 else Tokens()
    return response


def refusal(status: int, kind: str, words: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error in the form of the Messages API."""
    error = {"type": "error", "error": {"type": kind, "message": words}}
    return web.json_response(error, status=status, headers=headers)

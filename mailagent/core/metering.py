"""What a model's answer used, read from the answer itself as it streams by, and what that costs."""

import json
from dataclasses import dataclass

from mailagent.core.quota import Spend


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens of each kind."""

    input: float
    output: float
    cache_write: float
    cache_read: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one answer. `input` is what was read beside the cache; what was written to the cache for an hour, and
    not for five minutes, is in `cache_hour`."""

    input: int = 0
    output: int = 0
    cache_write: int = 0
    cache_hour: int = 0
    cache_read: int = 0

    @property
    def read(self) -> int:
        """All that the model read, from the cache or not."""
        return self.input + self.cache_write + self.cache_hour + self.cache_read

    def spend(self, prices: Prices) -> Spend:
        """One request that used these; what stays in the cache for an hour costs twice what is read without it."""
        dollars = (
            self.input * prices.input
            + self.output * prices.output
            + self.cache_write * prices.cache_write
            + self.cache_hour * prices.input * 2
            + self.cache_read * prices.cache_read
        )
        return Spend(1, self.read + self.output, dollars / 1e6)


def most(read: int, written: int, prices: Prices) -> Tokens:
    """So many tokens, those that are read as the kind that costs most: which part of a request goes to the cache, and
    for how long, or comes from there, its answer says."""
    kinds = [
        Tokens(input=read, output=written),
        Tokens(cache_write=read, output=written),
        Tokens(cache_hour=read, output=written),
        Tokens(cache_read=read, output=written),
    ]
    return max(kinds, key=lambda kind: kind.spend(prices).dollars)


class Tally:
    """Reads the token counts of an answer of the Messages API: server-sent events, or one JSON object. `failed` says
    that the server broke it off itself, by an error event."""

    def __init__(self) -> None:
        self.failed = False
        self._rest = b""
        self._told = False
        self._seen: dict[str, int] = {}

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._line(line)

    def tokens(self, otherwise: Tokens) -> Tokens:
        """What the answer used; `otherwise` holds as far as it broke off before it said so."""
        self._line(self._rest)
        if not self._seen:
            return otherwise
        seen = self._seen.get
        hour = seen("ephemeral_1h_input_tokens", 0)
        return Tokens(
            input=seen("input_tokens", 0),
            output=seen("output_tokens", 0) if self._told else otherwise.output,
            cache_write=max(0, seen("cache_creation_input_tokens", 0) - hour),
            cache_hour=hour,
            cache_read=seen("cache_read_input_tokens", 0),
        )

    def _line(self, line: bytes) -> None:
        """An event's data, or all of an answer that is no stream."""
        self.failed = self.failed or line.rstrip() == b"event: error"
        if b'"usage"' in line and line.startswith((b"data:", b"{")):
            self._read(line.removeprefix(b"data:"))

    def _read(self, text: bytes) -> None:
        try:
            event = json.loads(text)
        except ValueError:
            return
        holder = event.get("message", event) if isinstance(event, dict) else {}
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            self._told = self._told or event.get("type") != "message_start"
            self._seen.update(_counts(usage))


def _counts(usage: dict[str, object]) -> dict[str, int]:
    """The counts by name. Where the model was asked several times for one answer (iterations), the sum of all, of which
    the answer's own counts may tell the last."""
    written, parts = usage.get("cache_creation"), usage.get("iterations")
    counts = {**usage, **(written if isinstance(written, dict) else {})}
    found = {name: count for name, count in counts.items() if isinstance(count, int) and count >= 0}
    all_parts = [_counts(part) for part in (parts if isinstance(parts, list) else []) if isinstance(part, dict)]
    return {name: max(count, sum(part.get(name, 0) for part in all_parts)) for name, count in found.items()}

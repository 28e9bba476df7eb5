"""ports.Parser in this process: core.parse without the wall."""

from mailagent.core.parse import parse
from mailagent.core.values import Inbound


class FakeParser:
    """Keeps the promises of ports.Parser for messages within the limits."""

    async def parse(self, raw: bytes) -> Inbound:
        """The message understood, or PermanentError."""
        return parse(raw)

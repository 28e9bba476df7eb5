"""Memory for what may be large: so many bytes at once, and who needs more than is left waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Space:
    """So many bytes, `left` of which nobody has."""

    def __init__(self, size: int) -> None:
        self.left = size
        self._first = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator["Part"]:
        """Wait for so many bytes, and have them until the context ends; no more than there are at all."""
        async with self._first:  # in order: a large one would wait for ever behind small ones
            while self.left < size:
                self._freed.clear()
                await self._freed.wait()
            part = Part(self, size)
        try:
            yield part
        finally:
            part.keep(0)

    def change(self, size: int) -> None:
        """So many bytes are left more, or fewer."""
        self.left += size
        self._freed.set()


class Part:
    """Bytes of a space that somebody has."""

    def __init__(self, space: Space, size: int) -> None:
        self._space = space
        self._size = size
        space.change(-size)

    def keep(self, size: int) -> None:
        """Give back all that is more than this."""
        self._space.change(self._size - min(size, self._size))
        self._size = min(size, self._size)

"""Endings that come to their end: who waits for one may be cancelled meanwhile, and again."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def whole(doing: Coroutine[Any, Any, T]) -> T:
    """Do it in a task of its own that no cancellation reaches; one that came meanwhile is passed on afterwards. So it
    must have an end by itself, and what it begins must be known to who ends it: its result is lost then."""
    task = asyncio.ensure_future(doing)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()

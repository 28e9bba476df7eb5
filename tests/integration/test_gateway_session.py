"""The gateway around a real session: what the CLI makes of refusals and failures, and what code in a sandbox can do."""

from pathlib import Path

import pytest

from mailagent.core.errors import PermanentError
from tests.integration.test_session import bash, desk

FOREVER = [bash(f"echo {n}") for n in range(30)]


async def test_a_turn_that_has_used_what_it_may_ends_in_words_for_the_sender(short_path: Path) -> None:
    async with desk(short_path, FOREVER, limits="turn_requests = 3") as at:
        with pytest.raises(
            PermanentError, match=r"may use 3 requests to the model, and this one came to 3.*less at once"
        ):
            await at.turn("hello")
        assert len(at.model.requests) == 3


async def test_x(short_path: Path) -> None:
    async with desk(short_path, FOREVER, limits="thread_dollars = 0.04", model="price_output = 1000") as at:
        with pytest.raises(PermanentError, match=r"new one"):
            await at.turn("hello")
        print(len(at.model.requests))

"""Requests to the model on the accounts: while they are under way with the most, afterwards with what they used."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from mailagent.adapters.endings import whole
from mailagent.core.errors import TemporaryError
from mailagent.core.quota import Account, Spend
from mailagent.ports import Ledger


class Charges:
    """Those of this daemon. The most is much more than nearly all requests use, so where it leaves no room for another
    one, that one waits until they are settled: here, nobody is refused for what is not used."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._under_way: dict[str, tuple[Sequence[Account], asyncio.Future[None]]] = {}
        self._one = asyncio.Lock()

    async def charge(self, request: str, accounts: Sequence[Account], most: Spend) -> tuple[Account, Spend] | None:
        """Like `Ledger.charge`; `settle` must follow when there was room. Who is cancelled, or has no answer of the
        ledger, has asked the model nothing, and pays nothing."""
        while True:
            try:
                full, waited_for = await whole(self._charged(request, accounts, most))
            except (asyncio.CancelledError, TemporaryError):
                with suppress(TemporaryError):
                    await self.settle(request, Spend())
                raise
            if not full or not waited_for or full[1].requests >= full[0].budget.requests:
                return full
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)

    async def _charged(
        self, request: str, accounts: Sequence[Account], most: Spend
    ) -> "tuple[tuple[Account, Spend] | None, list[asyncio.Future[None]]]":
        """What there is no room in, and those under way that may have taken it."""
        async with self._one:  # so that all who may have taken the room are under way, or settled since
            others = list(self._under_way.values())
            full = await self._ledger.charge(request, accounts, most, time.time())
            if not full:
                self._under_way[request] = accounts, asyncio.get_running_loop().create_future()
                return None, []
            return full, [settled for theirs, settled in others if full[0] in theirs]

    async def settle(self, request: str, used: Spend) -> None:
        """Like `Ledger.settle`."""
        try:
            await whole(self._ledger.settle(request, used))
        finally:
            if request in self._under_way:
                self._under_way.pop(request)[1].set_result(None)

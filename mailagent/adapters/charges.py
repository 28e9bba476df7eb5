"""Requests to the model on the accounts: while they are under way with the most, afterwards with what they used."""

import asyncio
import time
from collections.abc import Sequence

from mailagent.core.quota import Account, Spend
from mailagent.ports import Ledger


class Charges:
    """Those of this daemon. The most is much more than nearly all requests use, so where it leaves no room for another
    one, that one waits until they are settled: nobody is refused for what is not used."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._under_way: dict[str, tuple[Sequence[Account], asyncio.Future[None]]] = {}
        self._one = asyncio.Lock()

    async def charge(self, request: str, accounts: Sequence[Account], most: Spend) -> tuple[Account, Spend] | None:
        """Like `Ledger.charge`; `settle` must follow when there was room."""
        while True:
            async with self._one:  # so that all who may have taken the room are under way, or settled since
                others = list(self._under_way.values())
                full = await self._ledger.charge(request, accounts, most, time.time())
                if not full:
                    self._under_way[request] = accounts, asyncio.get_running_loop().create_future()
                    return None
            account, used = full
            waited_for = [settled for theirs, settled in others if account in theirs]
            if not waited_for or used.requests >= account.budget.requests:
                return full
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)

    async def settle(self, request: str, used: Spend) -> None:
        """Like `Ledger.settle`."""
        try:
            await self._ledger.settle(request, used)
        finally:
            self._under_way.pop(request)[1].set_result(None)

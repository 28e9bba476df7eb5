"""The account of the senders in memory: keeps the promises of `ports.Ledger`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mailagent.core.quota import HOUR, Spent, day_of
from mailagent.core.screen import Kind
from mailagent.core.values import JobId, Usage


@dataclass
class FakeLedger:
    """The first word on a job stands."""

    mails: dict[JobId, tuple[str, float]] = field(default_factory=dict)
    usages: dict[JobId, tuple[str, float, Usage]] = field(default_factory=dict)
    told: dict[tuple[str, Kind, str], JobId] = field(default_factory=dict)

    async def spent(self, senders: Collection[str], now: float) -> dict[str, Spent]:
        return {sender: self._spent(sender, now) for sender in senders}

    def _spent(self, sender: str, now: float) -> Spent:
        today = day_of(now)
        mails = [at for who, at in self.mails.values() if who == sender]
        used = [usage for who, at, usage in self.usages.values() if who == sender and day_of(at) == today]
        return Spent(
            mails=sum(day_of(at) == today for at in mails),
            tokens=sum(usage.input_tokens + usage.output_tokens for usage in used),
            dollars=round(sum(usage.cost_usd for usage in used), 6),
            last_hour=tuple(sorted(at for at in mails if now - HOUR < at <= now)),
        )

    async def took(self, jobs: Sequence[tuple[str, JobId]], now: float) -> None:
        for sender, job in jobs:
            self.mails.setdefault(job, (sender, now))

    async def used(self, sender: str, job: JobId, usage: Usage, now: float) -> None:
        self.usages.setdefault(job, (sender, now, usage))

    async def may_tell(self, sender: str, kind: Kind, job: JobId, now: float) -> bool:
        return self.told.setdefault((sender, kind, day_of(now)), job) == job

    async def overall_last_hour(self, now: float) -> int:
        return sum(now - HOUR < at <= now for _, at in self.mails.values())

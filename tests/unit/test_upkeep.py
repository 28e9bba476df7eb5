"""What the daemon says of its queue, at the start and all along."""

from mailagent.core.errors import TemporaryError
from mailagent.core.job import Composed, Held, Received, Sending
from mailagent.flow.upkeep import Upkeep, found, standing
from tests.fakes.jobs import FakeJobs, a_job, composed


async def a_queue() -> FakeJobs:
    """One mail at work, one waiting, one of which nobody knows whether it was sent, one held."""
    jobs = FakeJobs()
    for name in ("j1", "j2", "j3", "j4"):
        await jobs.accept(a_job(name, f"thread of {name}"), None)
    sending, held, _ = [await jobs.claim("turns", 0.0) for _ in range(3)]
    assert sending
    assert held
    await jobs.hand_over(sending, composed(sending.job))
    delivery = await jobs.claim("delivery", 0.0)
    assert delivery
    assert isinstance(delivery.job.stage, Composed)
    uncertain = delivery.job.at(Sending(delivery.job.stage, 1, to="customer@example.org"), "sending", 3.0)
    await jobs.retry(delivery, uncertain, 60.0)
    await jobs.finish(held, held.job.at(Held("why", Received()), "held", 4.0))
    return jobs


async def test_a_start_says_what_it_found() -> None:
    said = await found(await a_queue())
    assert said == "2 wait for the agent, 1 in the outbox, 1 held; 1 were at work, 1 uncertain"
    assert await found(FakeJobs()) == "nothing waits; 0 were at work, 0 uncertain"


async def test_each_round_tells_how_the_queue_stands() -> None:
    told: list[str] = []
    await Upkeep(await a_queue(), 60.0, told.append).once()
    assert told == ["2 wait for the agent, 1 in the outbox, 1 held"]


async def test_a_round_without_a_store_is_survived() -> None:
    class Away(FakeJobs):
        async def repair(self) -> int:
            raise TemporaryError("away")

    told: list[str] = []
    await Upkeep(Away(), 60.0, told.append).once()
    assert told == []


def test_what_is_nowhere_is_not_named() -> None:
    assert standing({"turns": 0, "delivery": 0, "later": 2, "dead": 3}) == "3 dead"

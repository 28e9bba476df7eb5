"""What `ports.Ledger` promises, asked of the fake and of Redis."""

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from mailagent.adapters.ledger import RedisLedger
from mailagent.adapters.redis import connect
from mailagent.core.errors import TemporaryError
from mailagent.core.quota import DAY, HOUR, Account, Limits, Payer, Spend, Spent, accounts
from mailagent.core.values import JobId, ThreadId
from mailagent.ports import Ledger
from tests.fakes.ledger import FakeLedger

NOON = 20_000 * DAY + 12 * HOUR
MIDNIGHT = 20_001 * DAY
ANNA, BERT = "anna@example.org", "bert@example.org"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client, _ = await connect(redis_url)
    async with client:
        yield client


@pytest.fixture(params=["memory", "redis"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    if request.param == "memory":
        return FakeLedger()
    return RedisLedger(request.getfixturevalue("client"))


def job(number: int) -> JobId:
    return JobId(f"job{number}")


ROOM = Spend(1_000, 10**9, 1e6)


def payer(sender: str, number: int = 1, thread: str = "thread", budget: Spend = ROOM) -> Payer:
    return Payer(job(number), ThreadId(thread), sender, budget)


async def charge(
    ledger: Ledger, request: str, who: Payer, most: Spend, now: float = NOON, limits: Limits | None = None
) -> tuple[Account, Spend] | None:
    return await ledger.charge(request, accounts(who, limits or Limits()), most, now)


async def spent(ledger: Ledger, sender: str, now: float) -> Spent:
    return (await ledger.spent([sender], now))[sender]


async def test_a_sender_never_seen_has_used_nothing(ledger: Ledger) -> None:
    assert await spent(ledger, ANNA, NOON) == Spent(0, 0, 0.0, ())
    assert await ledger.overall_last_hour(NOON) == 0


async def test_mails_are_counted_for_each_sender_and_for_all(ledger: Ledger) -> None:
    await ledger.took([(ANNA, job(1))], NOON)
    await ledger.took([(ANNA, job(2))], NOON + 1.25)
    await ledger.took([(BERT, job(3)), (ANNA, job(2))], NOON + 2)
    assert await spent(ledger, ANNA, NOON + 3) == Spent(mails=2, last_hour=(NOON, NOON + 1.25))
    assert await spent(ledger, BERT, NOON + 3) == Spent(mails=1, last_hour=(NOON + 2,))
    both = await ledger.spent([BERT, ANNA], NOON + 3)
    assert both == {name: await spent(ledger, name, NOON + 3) for name in (ANNA, BERT)}
    assert await ledger.spent([], NOON + 3) == {}
    assert await ledger.overall_last_hour(NOON + 3) == 3


async def test_a_mail_that_is_counted_again_changes_nothing(ledger: Ledger) -> None:
    for now in (MIDNIGHT - 2, MIDNIGHT - 1, MIDNIGHT + 1):
        await ledger.took([(ANNA, job(1))], now)
    assert await spent(ledger, ANNA, MIDNIGHT - 1) == Spent(mails=1, last_hour=(MIDNIGHT - 2,))
    assert await spent(ledger, ANNA, MIDNIGHT + 1) == Spent(mails=0, last_hour=(MIDNIGHT - 2,))
    assert await ledger.overall_last_hour(MIDNIGHT + 1) == 1


async def test_a_request_counts_as_the_most_until_it_is_settled_once(ledger: Ledger) -> None:
    assert await charge(ledger, "a", payer(ANNA), Spend(1, 1000, 0.5)) is None
    assert await spent(ledger, ANNA, NOON) == Spent(tokens=1000, dollars=0.5, requests=1)
    await ledger.settle("a", Spend(1, 10, 0.000001))
    await ledger.settle("a", Spend(1, 700, 0.7))
    assert await spent(ledger, ANNA, NOON) == Spent(tokens=10, dollars=0.000001, requests=1)
    assert await spent(ledger, BERT, NOON) == Spent()


async def test_a_request_that_is_charged_again_changes_nothing(ledger: Ledger) -> None:
    for now in (MIDNIGHT - 1, MIDNIGHT + 1):
        assert await charge(ledger, "a", payer(ANNA), Spend(1, 10, 0.1), now) is None
    assert await spent(ledger, ANNA, MIDNIGHT - 1) == Spent(tokens=10, dollars=0.1, requests=1)
    assert await spent(ledger, ANNA, MIDNIGHT + 1) == Spent()


async def test_a_request_across_midnight_is_settled_on_the_day_it_was_made(ledger: Ledger) -> None:
    await charge(ledger, "a", payer(ANNA), Spend(1, 100, 1.0), MIDNIGHT - 1)
    await charge(ledger, "b", payer(ANNA), Spend(1, 7, 0.1), MIDNIGHT + 1)
    await ledger.settle("a", Spend(1, 3, 0.2))
    assert await spent(ledger, ANNA, MIDNIGHT - 1) == Spent(tokens=3, dollars=0.2, requests=1)
    assert await spent(ledger, ANNA, MIDNIGHT + 1) == Spent(tokens=7, dollars=0.1, requests=1)


async def test_what_was_never_charged_cannot_be_settled(ledger: Ledger) -> None:
    await ledger.settle("a", Spend(1, 3, 0.2))
    assert await spent(ledger, ANNA, NOON) == Spent()


LIMITED = {
    "turn": Limits(turn_requests=2),
    "thread": Limits(thread_tokens=20),
    "sender": Limits(),
    "everybody": Limits(dollars_per_day=2.0),
}


@pytest.mark.parametrize("scope", LIMITED)
async def test_an_account_without_room_stops_the_request_and_nothing_is_charged(ledger: Ledger, scope: str) -> None:
    limits = LIMITED[scope]
    budget = Spend(2, 10**9, 1e6) if scope == "sender" else ROOM
    who = payer(ANNA, budget=budget)
    assert await charge(ledger, "a", who, Spend(1, 10, 1.0), limits=limits) is None
    assert await charge(ledger, "b", who, Spend(1, 10, 1.0), limits=limits) is None
    before = await spent(ledger, ANNA, NOON)
    full = await charge(ledger, "c", who, Spend(1, 10, 1.0), limits=limits)
    assert full is not None
    assert (full[0].scope, full[1]) == (scope, Spend(2, 20, 2.0))
    assert await spent(ledger, ANNA, NOON) == before
    others = {
        "turn": payer(ANNA, 2),
        "thread": payer(ANNA, thread="other"),
        "sender": payer(BERT),
        "everybody": payer(ANNA),
    }
    later = NOON + DAY if scope == "everybody" else NOON
    assert await charge(ledger, "c", others[scope], Spend(1, 1, 0.1), later, limits) is None, "others have room"


async def test_a_sender_has_room_again_on_the_next_day(ledger: Ledger) -> None:
    who = payer(ANNA, budget=Spend(1, 10**9, 1e6))
    assert await charge(ledger, "a", who, Spend(1, 1, 0.1), MIDNIGHT - 1) is None
    assert await charge(ledger, "b", who, Spend(1, 1, 0.1), MIDNIGHT - 1) is not None
    assert await charge(ledger, "b", who, Spend(1, 1, 0.1), MIDNIGHT) is None


async def test_a_day_ends_at_midnight_utc_and_an_hour_after_an_hour(ledger: Ledger) -> None:
    await ledger.took([(ANNA, job(1))], MIDNIGHT - 1)
    await ledger.took([(ANNA, job(2))], MIDNIGHT)
    assert (await spent(ledger, ANNA, MIDNIGHT - 1)).mails == 1
    assert await spent(ledger, ANNA, MIDNIGHT + 1) == Spent(mails=1, last_hour=(MIDNIGHT - 1, MIDNIGHT))
    assert (await spent(ledger, ANNA, MIDNIGHT + HOUR - 1)).last_hour == (MIDNIGHT,)
    assert await ledger.overall_last_hour(MIDNIGHT + HOUR - 1) == 1
    assert await ledger.overall_last_hour(MIDNIGHT + HOUR) == 0


async def test_one_job_a_day_may_tell(ledger: Ledger) -> None:
    assert await ledger.may_tell(ANNA, "day", job(1), NOON)
    assert await ledger.may_tell(ANNA, "day", job(1), NOON + 1)
    assert not await ledger.may_tell(ANNA, "day", job(2), NOON + 2)
    assert await ledger.may_tell(ANNA, "no data", job(2), NOON + 2)
    assert await ledger.may_tell(BERT, "day", job(3), NOON + 2)
    assert await ledger.may_tell(ANNA, "day", job(1), MIDNIGHT - 1)
    assert await ledger.may_tell(ANNA, "day", job(4), MIDNIGHT)
    assert not await ledger.may_tell(ANNA, "day", job(1), MIDNIGHT)


@pytest.mark.parametrize("sender", ["", "a:b@example.org", "\ud800@x", "é\n\0@" + "x" * 10_000])
async def test_any_sender_has_an_account(ledger: Ledger, sender: str) -> None:
    await ledger.took([(sender, job(1))], NOON)
    assert await charge(ledger, "a", payer(sender), Spend(1, 3, 0.0)) is None
    assert await ledger.may_tell(sender, "size", job(1), NOON)
    assert await spent(ledger, sender, NOON) == Spent(1, 3, 0.0, (NOON,), 1)
    assert await spent(ledger, ANNA, NOON) == Spent()


Step = tuple[str, str, int, float, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["took", "charge", "settle"]),
        st.sampled_from([ANNA, BERT]),
        st.integers(1, 6),
        st.floats(MIDNIGHT - 2 * HOUR, MIDNIGHT + 2 * HOUR),
        st.integers(0, 10**6),
    ),
    max_size=12,
)


@given(steps=STEPS, now=st.floats(MIDNIGHT - HOUR, MIDNIGHT + HOUR))
@settings(max_examples=40)
async def test_redis_says_what_the_fake_says(redis_server: str, steps: Sequence[Step], now: float) -> None:
    client, _ = await connect(redis_server)
    async with client:
        await client.flushall()
        ledgers: tuple[Ledger, Ledger] = (FakeLedger(), RedisLedger(client))
        for each in ledgers:
            over: set[int] = set()
            for what, sender, number, at, amount in steps:
                spend = Spend(1, amount, amount / 1e6)
                if what == "took":
                    await each.took([(sender, job(number))], at)
                elif what == "settle":
                    await each.settle(str(number), spend)
                    over.add(number)
                elif number not in over:  # no request is made again once it is settled
                    await charge(each, str(number), payer(sender, number), spend, at)
        said = [(await spent(each, ANNA, now), await each.overall_last_hour(now)) for each in ledgers]
        assert said[0] == said[1]


async def test_all_of_it_is_forgotten_and_names_nobody(client: Redis) -> None:
    ledger = RedisLedger(client, thread_seconds=7 * DAY)
    await ledger.took([(ANNA, job(1))], NOON)
    await charge(ledger, "a", payer(ANNA), Spend(1, 10, 0.1))
    await ledger.may_tell(ANNA, "thread", job(1), NOON)
    keys = [key async for key in client.scan_iter()]
    assert len(keys) == 9
    for key in keys:
        assert key.startswith("{ma}:ledger:")
        assert "anna" not in key
        assert 0 < await client.ttl(key) <= (7 if "thread" in key and "told" not in key else 2) * DAY
    await ledger.settle("a", Spend(1, 1, 0.1))
    assert await client.dbsize() == 8, "what is settled leaves no mark"


async def test_an_account_that_is_gone_is_not_made_again(client: Redis) -> None:
    ledger = RedisLedger(client)
    await charge(ledger, "a", payer(ANNA), Spend(1, 10, 0.1))
    await client.delete("{ma}:ledger:thread:thread")
    await ledger.settle("a", Spend(1, 1, 0.1))
    assert not await client.exists("{ma}:ledger:thread:thread")


async def test_mails_of_long_ago_take_no_room(client: Redis) -> None:
    ledger = RedisLedger(client)
    for number in range(5):
        await ledger.took([(ANNA, job(number))], NOON + number * DAY)
    assert await client.zcard("{ma}:ledger:hours") == 2


async def test_a_store_that_is_away_is_a_passing_trouble(client: Redis) -> None:
    ledger = RedisLedger(client)
    await client.config_set("maxmemory", 1)
    try:
        with pytest.raises(TemporaryError):
            await ledger.took([(ANNA, job(1))], NOON)
        with pytest.raises(TemporaryError):
            await ledger.may_tell(ANNA, "day", job(1), NOON)
        with pytest.raises(TemporaryError):
            await charge(ledger, "a", payer(ANNA), Spend(1, 1, 0.1))
    finally:
        await client.config_set("maxmemory", 0)
    assert await spent(ledger, ANNA, NOON) == Spent()

"""What `ports.Ledger` promises, asked of the fake and of Redis."""

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from mailagent.adapters.ledger import RedisLedger
from mailagent.adapters.redis import connect
from mailagent.core.errors import TemporaryError
from mailagent.core.quota import DAY, HOUR, Spent
from mailagent.core.values import JobId, Usage
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


def usage(tokens: int, dollars: float) -> Usage:
    return Usage("rules", 3, tokens - tokens // 4, tokens // 4, dollars)


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


async def test_an_answer_is_counted_once_whatever_it_is_said_to_have_used_later(ledger: Ledger) -> None:
    await ledger.used(ANNA, job(1), usage(1000, 0.1), NOON)
    await ledger.used(ANNA, job(1), usage(5000, 0.5), MIDNIGHT + 1)
    await ledger.used(ANNA, job(2), usage(10, 2.01), NOON)
    await ledger.used(BERT, job(3), usage(7, 7.0), NOON)
    assert await spent(ledger, ANNA, NOON) == Spent(tokens=1010, dollars=2.11)
    assert await spent(ledger, ANNA, MIDNIGHT + 1) == Spent()


async def test_a_mail_and_its_answer_are_two_things(ledger: Ledger) -> None:
    await ledger.used(ANNA, job(1), usage(10, 0.000001), NOON)
    await ledger.took([(ANNA, job(1))], NOON)
    assert await spent(ledger, ANNA, NOON) == Spent(1, 10, 0.000001, (NOON,))


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
    await ledger.used(sender, job(1), usage(3, 0.0), NOON)
    assert await ledger.may_tell(sender, "size", job(1), NOON)
    assert await spent(ledger, sender, NOON) == Spent(1, 3, 0.0, (NOON,))
    assert await spent(ledger, ANNA, NOON) == Spent()


Step = tuple[bool, str, int, float, int]
STEPS = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from([ANNA, BERT]),
        st.integers(1, 6),
        st.floats(MIDNIGHT - 2 * HOUR, MIDNIGHT + 2 * HOUR),
        st.integers(0, 10**6),
    ),
    max_size=12,
)


@given(steps=STEPS, now=st.floats(MIDNIGHT - HOUR, MIDNIGHT + HOUR))
@settings(max_examples=40, deadline=None)
async def test_redis_says_what_the_fake_says(redis_server: str, steps: Sequence[Step], now: float) -> None:
    client, _ = await connect(redis_server)
    async with client:
        await client.flushall()
        ledgers: tuple[Ledger, Ledger] = (FakeLedger(), RedisLedger(client))
        for each in ledgers:
            for took, sender, number, at, amount in steps:
                if took:
                    await each.took([(sender, job(number))], at)
                else:
                    await each.used(sender, job(number), usage(amount, amount / 1e6), at)
        said = [(await spent(each, ANNA, now), await each.overall_last_hour(now)) for each in ledgers]
        assert said[0] == said[1]


async def test_all_of_it_is_forgotten_and_names_nobody(client: Redis) -> None:
    ledger = RedisLedger(client)
    await ledger.took([(ANNA, job(1))], NOON)
    await ledger.used(ANNA, job(1), usage(10, 0.1), NOON)
    await ledger.may_tell(ANNA, "thread", job(1), NOON)
    keys = [key async for key in client.scan_iter()]
    assert len(keys) == 6
    for key in keys:
        assert key.startswith("{ma}:ledger:")
        assert "anna" not in key
        assert 0 < await client.ttl(key) <= 2 * DAY


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
    finally:
        await client.config_set("maxmemory", 0)
    assert await spent(ledger, ANNA, NOON) == Spent()

"""Where a sender's day, hour, mail or conversation is used up, and what is said then."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailagent.config import Allow
from mailagent.config import Limits as LimitsTable
from mailagent.core.quota import DAY, HOUR, Limits, Spent, day_of, over, too_large, too_long
from mailagent.core.screen import Notice, Rule

NOON = 20_000 * DAY + 12 * HOUR
RULE = Rule(mails_per_day=4, tokens_per_day=1_000_000, dollars_per_day=2.5)
LIMITS = Limits(sender_mails_per_hour=3, thread_turns=30, mails_per_hour=300)


def said(notice: Notice | None) -> str:
    assert notice is not None
    return notice.reason


def test_the_limits_are_those_of_the_settings() -> None:
    assert Limits(**LimitsTable().model_dump()) == Limits()
    assert Rule(**Allow().model_dump()) == Rule()


def test_a_day_is_one_of_utc() -> None:
    assert [day_of(at) for at in (0.0, DAY - 0.001, DAY)] == ["1970-01-01", "1970-01-01", "1970-01-02"]
    assert day_of(NOON) == "2024-10-04"


@pytest.mark.parametrize(
    ("spent", "kind", "words"),
    [
        (Spent(mails=4), "day", ("4 mails a day", "today I took 4", "at midnight UTC, in 12 h 0 min")),
        (Spent(mails=5), "day", ("4 mails a day", "today I took 5")),
        (Spent(tokens=1_000_000), "day", ("1,000,000 tokens a day", "they used 1,000,000", "midnight UTC")),
        (Spent(dollars=2.504), "day", ("$2.50 a day", "they cost $2.50", "midnight UTC")),
        (Spent(last_hour=(NOON - 1500, NOON - 60, NOON)), "hour", ("3 mails an hour", "I took 3", "again in 35 min.")),
        (Spent(mails=4, last_hour=(NOON, NOON, NOON)), "day", ("mails a day",)),
    ],
)
def test_a_sender_is_told_the_limit_what_was_used_and_when_there_is_room(
    spent: Spent, kind: str, words: tuple[str, ...]
) -> None:
    notice = over(spent, RULE, LIMITS, NOON)
    assert notice is not None
    assert notice.kind == kind
    assert [word for word in (*words, "not worked on", "send it again") if word not in notice.reason] == []


def test_below_every_limit_nothing_is_said() -> None:
    spent = Spent(mails=3, tokens=999_999, dollars=2.499, last_hour=(NOON - 1, NOON))
    assert over(spent, RULE, LIMITS, NOON) is None


@pytest.mark.parametrize(
    ("now", "wait"),
    [
        (NOON + 12 * HOUR - 0.5, "in 1 min"),
        (NOON + 11 * HOUR + 1, "in 1 h 0 min"),
        (NOON - 12 * HOUR, "in 24 h 0 min"),
    ],
)
def test_the_day_ends_at_midnight(now: float, wait: str) -> None:
    assert f"midnight UTC, {wait}." in said(over(Spent(mails=4), RULE, LIMITS, now))


AGES = st.lists(st.floats(0, HOUR - 1), max_size=8).map(lambda ages: tuple(sorted(NOON - age for age in ages)))


@given(taken=AGES, most=st.integers(1, 5))
def test_when_the_minutes_are_over_there_is_room_and_not_two_before(taken: tuple[float, ...], most: int) -> None:
    limits = replace(LIMITS, sender_mails_per_hour=most)
    notice = over(Spent(last_hour=taken), RULE, limits, NOON)
    assert (notice is not None) == (len(taken) >= most)
    if notice:
        found = re.search(r"again in (?:(\d+) h )?(\d+) min", notice.reason)
        assert found
        minutes = int(found[1] or 0) * 60 + int(found[2])
        assert len([at for at in taken if at > NOON + minutes * 60 - HOUR]) < most
        assert len([at for at in taken if at > NOON + (minutes - 1) * 60 - HOUR - 1]) >= most


@pytest.mark.parametrize(
    ("size", "rule_mb", "shown"),
    [
        (36_000_000, 0.0, None),
        (36_000_001, 0.0, ("36.1 MB", "take 36 MB")),
        (1_500_001, 1.5, ("1.6 MB", "take 1.5 MB")),
        (1_500_000, 1.5, None),
        (40_000_000, 100.0, ("40 MB", "take 36 MB")),
        (2_345_678_901, 0.0, ("2,345.7 MB", "take 36 MB")),
    ],
)
def test_a_mail_may_be_as_large_as_its_rule_and_the_mailbox_say(
    size: int, rule_mb: float, shown: tuple[str, ...] | None
) -> None:
    notice = too_large(size, replace(RULE, max_message_mb=rule_mb), 36.0)
    assert (notice is None) == (shown is None)
    if notice:
        assert notice.kind == "size"
        assert all(word in notice.reason for word in (*(shown or ()), "smaller files", "Parquet"))


def test_a_conversation_ends() -> None:
    assert too_long(29, LIMITS) is None
    for turns in (30, 31):
        notice = too_long(turns, LIMITS)
        assert notice is not None
        assert notice.kind == "thread"
        assert all(word in notice.reason for word in (f"has had {turns} answers", "30 is the most", "attach your data"))

"""How much a sender may ask: limits by mail, conversation, hour and day, and what is said where one is reached."""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Literal

from mailagent.core.screen import Notice, Rule

HOUR = 3600.0
DAY = 86400.0  # every day of Unix time is this long (POSIX.1-2017 section 4.16)


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for everybody: the table [limits] of the settings."""

    sender_mails_per_hour: int = 10
    thread_turns: int = 30
    mails_per_hour: int = 300


@dataclass(frozen=True, slots=True)
class Spent:
    """What one sender has used: `mails`, `tokens` and `dollars` on this day (UTC), and when (Unix seconds, ascending)
    each mail of the last hour was taken over."""

    mails: int = 0
    tokens: int = 0
    dollars: float = 0.0
    last_hour: tuple[float, ...] = ()


def over(spent: Spent, rule: Rule, limits: Limits, now: float) -> Notice | None:
    """What to tell a sender who has used up the day, or the hour, before this mail; None when there is room."""
    return _over_day(spent, rule, now) or _over_hour(spent.last_hour, limits.sender_mails_per_hour, now)


def too_large(size: int, rule: Rule, most_mb: float) -> Notice | None:
    """What to tell the sender of a mail of `size` bytes; `most_mb` (megabytes) holds whatever the rule says."""
    allowed = min(rule.max_message_mb or most_mb, most_mb)
    if size <= allowed * 1e6:
        return None
    return Notice(
        f"Your mail has {_shown(ceil(size / 1e5) / 10)} MB, and I can take {_shown(allowed)} MB at most.\n\n"
        "Please send it again with fewer or smaller files. As Parquet a table needs much less room than as CSV.",
        "size",
    )


def too_long(turns: int, limits: Limits) -> Notice | None:
    """What to tell whoever continues a conversation that has had `turns` answers."""
    if turns < limits.thread_turns:
        return None
    return Notice(
        f"This conversation has had {turns} answers, and {limits.thread_turns} is the most that one may have.\n\n"
        "Please begin a new one: write a new mail, instead of a reply, and attach your data again.",
        "thread",
    )


def day_of(now: float) -> str:
    """The day (UTC) by which is counted, as 2026-11-23."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def _over_day(spent: Spent, rule: Rule, now: float) -> Notice | None:
    if spent.mails >= rule.mails_per_day:
        used = f"you may send me {rule.mails_per_day:,} mails a day, and today I took {spent.mails:,}"
    elif spent.tokens >= rule.tokens_per_day:
        used = f"my answers to you may use {rule.tokens_per_day:,} tokens a day, and today they used {spent.tokens:,}"
    elif spent.dollars >= rule.dollars_per_day:
        used = (
            f"my answers to you may cost ${rule.dollars_per_day:,.2f} a day, and today they cost ${spent.dollars:,.2f}"
        )
    else:
        return None
    return _later(used, f"at midnight UTC, {_wait(DAY - now % DAY)}", "day")


def _over_hour(taken: tuple[float, ...], most: int, now: float) -> Notice | None:
    if len(taken) < most:
        return None
    used = f"you may send me {most:,} mails an hour, and in the last 60 minutes I took {len(taken):,}"
    # When this one is an hour old, one fewer than the limit are left.
    return _later(used, _wait(taken[-most] + HOUR - now), "hour")


def _later(used: str, when: str, kind: Literal["day", "hour"]) -> Notice:
    return Notice(
        f"I have not worked on your mail: {used}.\n\nThere is room again {when}. Please send it again then.", kind
    )


def _wait(seconds: float) -> str:
    hours, minutes = divmod(max(1, ceil(seconds / 60)), 60)
    return f"in {hours} h {minutes} min" if hours else f"in {minutes} min"


def _shown(megabytes: float) -> str:
    return f"{megabytes:,.1f}".removesuffix(".0")

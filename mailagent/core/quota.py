"""How much a sender may ask: limits by mail, conversation, hour and day, and what is said where one is reached."""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Literal

from mailagent.core.screen import Notice, Rule
from mailagent.core.values import JobId, ThreadId

HOUR = 3600.0
DAY = 86400.0  # every day of Unix time is this long (POSIX.1-2017 section 4.16)


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for everybody: the table [limits] of the settings."""

    sender_mails_per_hour: int = 10
    thread_turns: int = 30
    mails_per_hour: int = 300
    waiting_mails: int = 500
    turn_requests: int = 100
    turn_tokens: int = 2_000_000
    turn_dollars: float = 5.0
    thread_requests: int = 1_000
    thread_tokens: int = 20_000_000
    thread_dollars: float = 50.0
    requests_per_day: int = 10_000
    tokens_per_day: int = 100_000_000
    dollars_per_day: float = 200.0


@dataclass(frozen=True, slots=True)
class Spent:
    """What one sender has used: `mails`, `tokens` and `dollars` on this day (UTC), and when (Unix seconds, ascending)
    each mail of the last hour was taken over."""

    mails: int = 0
    tokens: int = 0
    dollars: float = 0.0
    last_hour: tuple[float, ...] = ()
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Spend:
    """Requests to the model, their tokens (read, cached or not, and written) and US dollars: used, or the most."""

    requests: int = 0
    tokens: int = 0
    dollars: float = 0.0


@dataclass(frozen=True, slots=True)
class Payer:
    """Whom the requests of a turn are charged to; `budget` is what the sender may use on a day."""

    job: JobId
    thread: ThreadId
    sender: str
    budget: Spend


@dataclass(frozen=True, slots=True)
class Account:
    """One of the accounts that each request is charged to: of a turn, a thread, a sender's day or everybody's day."""

    scope: Literal["turn", "thread", "sender", "everybody"]
    of: str
    budget: Spend


def over(spent: Spent, rule: Rule, limits: Limits, now: float) -> Notice | None:
    """What to tell a sender who has used up the day, or the hour, before this mail; None when there is room."""
    return _over_day(spent, rule, now) or _over_hour(spent.last_hour, limits.sender_mails_per_hour, now)


def accounts(payer: Payer, limits: Limits) -> tuple[Account, ...]:
    """Where a request of this turn is charged, and how much each may use."""
    turn = Spend(limits.turn_requests, limits.turn_tokens, limits.turn_dollars)
    thread = Spend(limits.thread_requests, limits.thread_tokens, limits.thread_dollars)
    everybody = Spend(limits.requests_per_day, limits.tokens_per_day, limits.dollars_per_day)
    return (
        Account("turn", payer.job, turn),
        Account("thread", payer.thread, thread),
        Account("sender", payer.sender, payer.budget),
        Account("everybody", "", everybody),
    )


def daily(rule: Rule) -> Spend:
    """What a sender may use on a day by this rule."""
    return Spend(rule.requests_per_day, rule.tokens_per_day, rule.dollars_per_day)


def used_up(account: Account, used: Spend, now: float) -> str:
    """What the sender is told when a turn had to end since one of its accounts has no room left."""
    limit, so_far = _measure(account.budget, used)
    tomorrow = f"There is room again {_midnight(now)}. Please send it again then."
    match account.scope:
        case "turn":
            why, then = f"one answer may use {limit}, and this one came to {so_far}", "Please ask for less at once."
        case "thread":
            why = f"one conversation may use {limit}, and this one has come to {so_far}"
            then = "Please begin a new one: write a new mail, instead of a reply, and attach your data again."
        case "sender":
            why, then = f"my answers to you may use {limit} a day, and today they came to {so_far}", tomorrow
        case "everybody":
            why, then = f"all my answers together may use {limit} a day, and today they came to {so_far}", tomorrow
    return f"I could not finish the answer to your mail: {why}.\n\n{then}"


def _measure(budget: Spend, used: Spend) -> tuple[str, str]:
    """The limit that was reached, and what was used of it, in words."""
    if used.requests >= budget.requests:
        return f"{budget.requests:,} requests to the model", f"{used.requests:,}"
    if used.tokens >= budget.tokens:
        return f"{budget.tokens:,} tokens", f"{used.tokens:,}"
    return f"${budget.dollars:,.2f}", f"${used.dollars:,.2f}"


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
    elif spent.requests >= rule.requests_per_day:
        used = (
            f"my answers to you may take {rule.requests_per_day:,} requests to the model a day, "
            f"and today they took {spent.requests:,}"
        )
    elif spent.tokens >= rule.tokens_per_day:
        used = f"my answers to you may use {rule.tokens_per_day:,} tokens a day, and today they used {spent.tokens:,}"
    elif spent.dollars >= rule.dollars_per_day:
        used = (
            f"my answers to you may cost ${rule.dollars_per_day:,.2f} a day, and today they cost ${spent.dollars:,.2f}"
        )
    else:
        return None
    return _later(used, _midnight(now), "day")


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


def _midnight(now: float) -> str:
    return f"at midnight UTC, {_wait(DAY - now % DAY)}"


def _wait(seconds: float) -> str:
    hours, minutes = divmod(max(1, ceil(seconds / 60)), 60)
    return f"in {hours} h {minutes} min" if hours else f"in {minutes} min"


def _shown(megabytes: float) -> str:
    return f"{megabytes:,.1f}".removesuffix(".0")

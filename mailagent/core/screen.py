"""Who is answered: an allowed sender whom our own mail server vouches for, and who sent something to work on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from mailagent.core.headers import address, without_comments
from mailagent.core.values import Accept, Ignore, Inbound, Refuse, Verdict

MICROSOFT_365 = "mx.microsoft.com"
"""The authserv-id to configure for Microsoft 365. It writes Authentication-Results without one, but gives this name
in its ARC-Authentication-Results; under this name, and no other, a topmost field without an id counts."""

FASTMAIL = "messagingengine.com"
"""The authserv-id to configure for Fastmail. Each of its servers has a name below this one and writes several
fields; the topmost with a DKIM result counts, since one is always there (`dkim=none` for a mail without signatures)."""

DATA_EXTENSIONS = (".csv", ".tsv", ".txt", ".xlsx", ".parquet")

_RESULT = re.compile(r'([\w.-]+)(?:/\d+)?\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]+)')
_PARTS = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^;"])+')
_NO_VERDICT = ("none", "bestguesspass", "temperror", "permerror")
_SEPARATORS = ("\t", ";", "|", ",")

_ADMISSIBLE = re.compile(
    r"Auto-Submitted says so|its Precedence is that of bulk mail|its sender is the address of a machine"
    r"|it has the field (?:List-Id|List-Post|List-Unsubscribe|X-Auto-Response-Suppress)"
)
"""What `automatic` says of an export or a newsletter; all else that it says, of bounces, notes of absence and our own
marks, no rule overcomes."""
_POSTMASTERS = re.compile(r"(?:mailer-daemon|postmaster)(?:[-+_.].*)?@.*")

_WHAT_TO_SEND = (
    "Please send your data and your question in one mail: attach a CSV, XLSX or Parquet file, "
    "and write in the mail what you would like to know about it."
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may write, what they must show, and how much they may ask: a table [[allow]] of the settings.

    `proof` is "authenticated", or "none" for mail that cannot come from outside; `machines` admits mail that a machine
    wrote; no `skills` means all of them, `max_message_mb` 0 what holds for everybody."""

    addresses: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    proof: Literal["authenticated", "none"] = "authenticated"
    machines: bool = False
    skills: tuple[str, ...] = ()
    mails_per_day: int = 40
    requests_per_day: int = 1_000
    tokens_per_day: int = 2_000_000
    dollars_per_day: float = 20.0
    max_message_mb: float = 0.0


Kind = Literal["no data", "size", "thread", "day", "hour"]
"""Why a proven sender is refused; of each kind a sender is told once a day."""


@dataclass(frozen=True, slots=True)
class Notice(Refuse):
    """A refusal of a kind."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class _Result:
    """One result of Authentication-Results (RFC 8601 section 2.2): its method, its result, its properties."""

    method: str
    value: str
    properties: dict[str, str]


def screen(inbound: Inbound, rules: Sequence[Rule], own: str, authserv_id: str) -> Verdict:
    """Accept, or Ignore with the reason: a machine, an unclear, not allowed or unproven sender never gets a reply,
    since it would go to somebody who never wrote, or for ever (RFC 3834 section 2).

    A machine is let in by a rule that says so, and only when it is proven, since nobody would notice the replies."""
    rule = rule_for(inbound, rules)
    if _without_tag(inbound.sender) == _without_tag(own):
        return Ignore("it comes from our own address")
    if inbound.bounces:
        return Ignore("it reports that another mail did not arrive")
    if inbound.automatic and not (rule and rule.machines and _harmless(inbound)):
        return Ignore(f"a machine wrote it: {inbound.automatic}")
    if inbound.defects:
        return Ignore(f"the sender cannot be told: {'; '.join(inbound.defects)}")
    if rule is None:
        return Ignore("no allow rule covers the sender")
    if (rule.proof == "none" and not inbound.automatic) or proven(inbound, authserv_id):
        return Accept()
    return Ignore(f"the sender is not proven by {authserv_id or 'any server, since mail.authserv_id is not set'}")


def rule_for(inbound: Inbound, rules: Sequence[Rule]) -> Rule | None:
    """The one rule that holds for the sender: the first that names the address, else the first that names its domain,
    so that a rule for one person may be stricter than that for the house."""
    sender = inbound.sender
    domain = sender.rpartition("@")[2]
    named = [rule for rule in rules if sender in map(_ascii, rule.addresses)]
    housed = [rule for rule in rules if domain in map(_ascii_domain, rule.domains)]
    return next(iter(named + housed), None) if domain else None


def proven(inbound: Inbound, authserv_id: str) -> bool:
    """True when our own server says that the From domain is genuine: `dmarc=pass` for it, or, where DMARC gave no
    verdict, `dkim=pass` by the domain or a parent of it (RFC 7489 section 3.1.1, without its public suffix list).

    Only the topmost field under our server's name is read (but see FASTMAIL). A server must delete such fields that
    come in from outside (RFC 8601 section 5), but one that does not still writes its own above them; a second field
    below could be either, so a server that spreads its verdict must put the DMARC one on top (opendmarc does)."""
    domain = inbound.sender.rpartition("@")[2]
    results = _trusted(inbound.authentication, authserv_id) if domain and authserv_id else []
    verdicts = [result for result in results if result.method == "dmarc" and result.value not in _NO_VERDICT]
    if verdicts:
        return all(result.value == "pass" and _domain(result, "header.from") == domain for result in verdicts)
    return any(result.method == "dkim" and result.value == "pass" and _aligned(result, domain) for result in results)


def colleagues(inbound: Inbound, rules: Sequence[Rule], own: str) -> tuple[str, ...]:
    """Who else the mail was addressed to and may write to us too: those and no others may be answered along."""
    others = (name for name in inbound.recipients if _without_tag(name) != _without_tag(own) and name != inbound.sender)
    return tuple(name for name in others if rule_for(replace(inbound, sender=name), rules))


def nothing_to_do(inbound: Inbound, follow_up: bool) -> Notice | None:
    """What to tell a sender whose mail holds nothing to work on; None when it does, or continues a conversation.

    An empty question is fine: the data get an overview."""
    files = [file for file in inbound.attachments if not (follow_up and file.media_type.startswith("image/"))]
    if any(file.name.lower().endswith(DATA_EXTENSIONS) for file in files):
        return None
    if _has_table(inbound.text) or _has_table(inbound.quoted):
        return None
    if files:
        listed = "\n".join(f"- {file.name}: not a data file that I can read" for file in files)
        return Notice(f"I cannot work with what was attached:\n\n{listed}\n\n{_WHAT_TO_SEND}", "no data")
    return None if follow_up else Notice(f"Your mail came without data. {_WHAT_TO_SEND}", "no data")


def _harmless(inbound: Inbound) -> bool:
    """True for mail that a machine wrote of its own accord: what answers another mail may answer ours, for ever."""
    answers = inbound.in_reply_to or inbound.references or _POSTMASTERS.fullmatch(inbound.sender)
    return not answers and bool(_ADMISSIBLE.fullmatch(inbound.automatic))


def _ascii(written: str) -> str:
    """The address as `parse` writes it, domain in A-labels (RFC 5890); "" for what can be none."""
    try:
        return address(written)
    except ValueError:
        return ""


def _ascii_domain(written: str) -> str:
    return _ascii(f"x@{written}").partition("@")[2]


def _without_tag(address: str) -> str:
    """The address without its +tag (RFC 5233), so that mail from any of our own is known as such."""
    local, _, domain = address.lower().rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def _trusted(fields: Sequence[str], authserv_id: str) -> list[_Result]:
    """The results in the topmost field that our own server wrote; none when what stands there cannot be read."""
    ours = authserv_id.lower()
    for field in fields:
        try:
            parts = _PARTS.findall(without_comments(field))
        except ValueError:
            return []
        first = parts[0] if parts else ""
        if _is_name(first, ours):
            results = [result for part in parts[1:] for result in _result(part)]
            if ours != FASTMAIL or any(result.method == "dkim" for result in results):
                return results
        if ours == MICROSOFT_365:  # always writes one on top: what stands below was there before
            return [result for part in parts for result in _result(part)] if "=" in first else []
    return []


def _is_name(first: str, ours: str) -> bool:
    """True when this first part of a field, an authserv-id and maybe a version, is that of our server."""
    name = next(iter(first.replace('"', " ").lower().split()), "")
    return name == ours or (ours == FASTMAIL and name.endswith(f".{FASTMAIL}"))


def _result(part: str) -> list[_Result]:
    pairs = [(key.lower(), value.strip('"').lower()) for key, value in _RESULT.findall(part)]
    return [_Result(*pairs[0], dict(reversed(pairs[1:])))] if pairs else []


def _domain(result: _Result, name: str) -> str:
    return _ascii_domain(result.properties.get(name, "").rpartition("@")[2].rstrip("."))


def _aligned(result: _Result, domain: str) -> bool:
    signer = _domain(result, "header.d") or _domain(result, "header.i")
    return "." in signer and (domain == signer or domain.endswith(f".{signer}"))


def _has_table(text: str) -> bool:
    """True for three lines in a row with the same separators, and figures among them: pasted from a sheet or a CSV."""
    for separator in _SEPARATORS:
        needed = 2 if separator == "," else 1  # prose has a comma in a line now and then
        for count, run in groupby(text.split("\n"), key=lambda line: line.count(separator)):
            lines = list(run)
            if count >= needed and len(lines) >= 3 and any(c.isdigit() for line in lines for c in line):
                return True
    return False

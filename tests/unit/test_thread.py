"""Which conversation a mail belongs to, and what keeps the reply in it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailagent.core.headers import MESSAGE_ID
from mailagent.core.thread import (
    MAX_EVIDENCE,
    MAX_REFERENCES_BYTES,
    answered,
    claimed,
    continues,
    evidence,
    references_for,
)
from mailagent.core.token import Key, address_with, make
from mailagent.core.values import Thread, ThreadId
from tests.unit.test_screen import OWN, PLAIN

OUTLOOK = "<DM6PR11MB4657A5B4C3D2E1F0DM6PR11MB4657A5B4C3D2@DM6PR11MB4657.namprd11.prod.outlook.com>"
IDS = st.lists(
    st.sampled_from(["<a@x>", "<b@x>", "<c@x>", OUTLOOK, "junk", "<a b@x>", '<x"\r\nY@x>', "<" + "y" * 240 + ">"])
)


def ids(*names: str) -> tuple[str, ...]:
    return tuple(f"<{name}@x>" for name in names)


def test_the_nearest_id_comes_first() -> None:
    mail = replace(PLAIN, in_reply_to=ids("c"), references=ids("a", "b", "c"))
    assert evidence(mail) == ids("c", "b", "a")
    assert evidence(replace(PLAIN, references=ids("a", "b"))) == ids("b", "a")
    assert evidence(PLAIN) == ()


@given(IDS, IDS)
def test_evidence_is_clean_short_and_without_repeats(in_reply_to: list[str], references: list[str]) -> None:
    found = evidence(replace(PLAIN, in_reply_to=tuple(in_reply_to), references=tuple(references)))
    assert all(MESSAGE_ID.fullmatch(one) for one in found)
    assert len(found) == len(set(found))
    assert set(found) <= {*in_reply_to, *references}


def test_evidence_is_capped() -> None:
    found = evidence(replace(PLAIN, references=ids(*(str(n) for n in range(500)))))
    assert (len(found), found[0]) == (MAX_EVIDENCE, "<499@x>")


KEYS = (Key(2, b"new" * 11), Key(1, b"old" * 11))
THREAD, OTHER = ThreadId("a" * 16), ThreadId("b" * 16)


def tagged(thread: ThreadId, sender: str = PLAIN.sender, key: Key = KEYS[0]) -> str:
    address = address_with(make(key, thread, 1, sender), OWN)
    assert address
    return address


@pytest.mark.parametrize(
    ("recipients", "expected"),
    [
        ((tagged(THREAD),), THREAD),
        (("colleague@example.org", tagged(THREAD).upper()), THREAD),
        ((tagged(THREAD, key=KEYS[1]),), THREAD),
        ((tagged(THREAD, sender="stranger@example.org"), tagged(OTHER)), OTHER),
        ((tagged(OTHER), tagged(THREAD)), OTHER),
        ((tagged(THREAD, sender="stranger@example.org"),), None),
        ((tagged(THREAD, key=Key(2, b"forged" * 6)),), None),
        ((tagged(THREAD).replace("@example.test", "@example.org"),), None),
        ((OWN,), None),
    ],
)
def test_a_token_names_the_thread_for_the_sender_it_was_made_for(
    recipients: tuple[str, ...], expected: ThreadId | None
) -> None:
    assert claimed(replace(PLAIN, recipients=recipients), OWN, KEYS) == expected


def test_a_sender_that_cannot_be_told_claims_nothing() -> None:
    mail = replace(PLAIN, recipients=(tagged(THREAD),))
    assert claimed(replace(mail, defects=("odd",)), OWN, KEYS) is None
    assert claimed(mail, OWN, ()) is None


def test_a_token_counts_too_where_a_server_noted_the_address() -> None:
    assert claimed(replace(PLAIN, recipients=(OWN,), delivered_to=(OWN, tagged(THREAD))), OWN, KEYS) == THREAD


@pytest.mark.parametrize(
    ("sender", "defects", "thread", "expected"),
    [
        ("customer@example.org", (), Thread(ThreadId("t"), "customer@example.org", 1), True),
        ("stranger@example.org", (), Thread(ThreadId("t"), "customer@example.org", 1), False),
        ("customer@example.org", ("odd",), Thread(ThreadId("t"), "customer@example.org", 1), False),
        ("customer@example.org", (), None, False),
    ],
)
def test_the_owner_alone_continues_a_thread(
    sender: str, defects: tuple[str, ...], thread: Thread | None, expected: bool
) -> None:
    assert continues(replace(PLAIN, sender=sender, defects=defects), thread) is expected


@pytest.mark.parametrize(
    ("in_reply_to", "references", "expected"),
    [
        ((), (), ids("m")),
        (ids("b"), ids("a", "b"), ids("a", "b", "m")),
        (ids("b"), (), ids("b", "m")),
        (ids("b", "c"), (), ids("m")),  # RFC 5322 section 3.6.4: only one id may stand in for References
        ((), ids("a", "m", "b"), ids("a", "b", "m")),
    ],
)
def test_references_grow_by_the_mail_answered(
    in_reply_to: tuple[str, ...], references: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    mail = replace(PLAIN, message_id="<m@x>", in_reply_to=in_reply_to, references=references)
    assert references_for(mail) == expected
    assert answered(mail) == ids("m")


def test_a_mail_without_id_is_not_referred_to() -> None:
    mail = replace(PLAIN, message_id="<0123@missing.invalid>", references=ids("a"))
    assert (answered(mail), references_for(mail)) == ((), ids("a"))


def test_long_references_keep_the_first_and_the_last_eight() -> None:
    mail = replace(PLAIN, message_id="<m@x>", references=ids(*"abcdefghijkl"))
    assert references_for(mail) == ids("a", *"fghijkl", "m")


def test_references_that_are_too_long_lose_those_in_between() -> None:
    long = [f"<{n}{'x' * 200}@x>" for n in range(7)]
    mail = replace(PLAIN, message_id="<m@x>", references=tuple(long))
    assert references_for(mail) == (long[0], *long[-3:], "<m@x>")


def test_every_mail_answered_at_once_is_referred_to() -> None:
    mail = replace(PLAIN, message_id="<m@x>", references=ids("a", "k", "b"))
    assert references_for(mail, ids("k", "l", "k")) == ids("a", "b", "k", "l", "m")
    assert references_for(mail, ("junk", "<0@missing.invalid>", "<m@x>")) == ids("a", "k", "b", "m")
    many = ids(*(f"also{n}" for n in range(20)))
    assert references_for(mail, many) == (*ids("a"), *many, "<m@x>")
    assert answered(mail) == ids("m")


@given(IDS, IDS, IDS, st.sampled_from(["<m@x>", OUTLOOK, "<" + "z" * 250 + ">", "<0@missing.invalid>"]))
def test_references_fit_and_end_with_the_mail_answered(
    in_reply_to: list[str], references: list[str], also: list[str], message_id: str
) -> None:
    mail = replace(PLAIN, message_id=message_id, in_reply_to=tuple(in_reply_to), references=tuple(references))
    found = references_for(mail, also)
    assert found[len(found) - len(answered(mail)) :] == answered(mail)
    assert len(found) == len(set(found))
    assert len(" ".join(found)) < MAX_REFERENCES_BYTES
    assert all(MESSAGE_ID.fullmatch(one) for one in found)
    assert message_id in found or not answered(mail)

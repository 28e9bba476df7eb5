"""A reply token proves one thread to one sender, and nothing after any change."""

from base64 import b32encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailagent.core.token import Key, address_with, make, read, tokens_in
from mailagent.core.values import ThreadId

OWN = "agent@example.test"
SENDER = "customer@example.org"
THREAD = ThreadId("abcdefgh234567ij")
KEY = Key(7, b"k" * 32)
TOKEN = make(KEY, THREAD, 1, SENDER)

KEYS = st.builds(Key, st.integers(0, 255), st.binary(min_size=32, max_size=32))
THREADS = st.binary(min_size=10, max_size=10).map(lambda raw: ThreadId(b32encode(raw).decode().lower()))
TURNS = st.integers(0, 65535)
SENDERS = st.emails().map(str.lower)
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


@given(KEYS, THREADS, TURNS, SENDERS, st.lists(KEYS, max_size=3))
def test_what_was_made_is_read(key: Key, thread: ThreadId, turn: int, sender: str, others: list[Key]) -> None:
    token = make(key, thread, turn, sender)
    assert len(token) == 37
    assert read(token, [*others, key], sender) == thread
    assert read(token.upper(), [key, *others], sender.upper()) == thread
    assert token == make(key, thread, turn, sender)


@given(KEYS, KEYS, THREADS, TURNS, SENDERS, SENDERS)
def test_another_sender_or_key_is_refused(
    key: Key, other: Key, thread: ThreadId, turn: int, sender: str, stranger: str
) -> None:
    token = make(key, thread, turn, sender)
    assert (read(token, [key], stranger) is None) is (stranger != sender)
    assert (read(token, [other], sender) is None) is (other != key)
    assert read(token, [Key(key.id, other.secret)], sender) == (thread if other.secret == key.secret else None)
    assert read(token, [], sender) is None


@given(THREADS, TURNS, st.integers(0, 36), st.sampled_from(ALPHABET))
def test_a_change_of_one_character_is_refused(thread: ThreadId, turn: int, place: int, letter: str) -> None:
    token = make(KEY, thread, turn, SENDER)
    changed = token[:place] + letter + token[place + 1 :]
    assert read(changed, [KEY], SENDER) == (thread if changed == token else None)


def test_the_spare_bit_of_the_last_character_is_checked() -> None:
    twin = TOKEN[:-1] + ALPHABET[ALPHABET.index(TOKEN[-1]) ^ 1]
    assert read(TOKEN, [KEY], SENDER) == THREAD
    assert read(twin, [KEY], SENDER) is None


@given(THREADS, THREADS, TURNS)
def test_the_thread_of_one_token_does_not_go_with_the_signature_of_another(
    one: ThreadId, other: ThreadId, turn: int
) -> None:
    first, second = make(KEY, one, turn, SENDER), make(KEY, other, turn, SENDER)
    assert (read(first[:21] + second[21:], [KEY], SENDER) is None) is (one != other)


@given(st.text(max_size=60))
def test_what_is_no_token_is_read_as_none(text: str) -> None:
    assert read(text, [KEY], SENDER) is None


def test_letters_that_only_lower_to_ours_are_no_token() -> None:
    token = next(token for turn in range(99) if "k" in (token := make(KEY, THREAD, turn, SENDER)))
    kelvin = token.replace("k", "\N{KELVIN SIGN}")
    assert kelvin.lower() == token
    assert read(kelvin, [KEY], SENDER) is None


def test_two_keys_with_one_id_both_verify() -> None:
    twin = Key(KEY.id, b"t" * 32)
    assert read(TOKEN, [twin, KEY], SENDER) == THREAD
    assert read(make(twin, THREAD, 1, SENDER), [twin, KEY], SENDER) == THREAD


@pytest.mark.parametrize("recipient", ["agent+{}@example.test", "Agent+{}@Example.Test", "AGENT+{}@EXAMPLE.TEST"])
def test_the_token_is_found_in_our_own_address(recipient: str) -> None:
    assert tokens_in(["a@example.org", recipient.format(TOKEN.upper()), recipient.format(TOKEN)], OWN) == (TOKEN,)


@pytest.mark.parametrize(
    "recipient",
    [
        OWN,
        f"other+{TOKEN}@example.test",
        f"agent+{TOKEN}@example.org",
        f"agent+{TOKEN}@sub.example.test",
        f"agent+x{TOKEN}@example.test",
        f"agent+{TOKEN[1:]}@example.test",
        f"agent-{TOKEN}@example.test",
        f"{TOKEN}@example.test",
        f"agent+{TOKEN}",
        "agent+" + "1" * 37 + "@example.test",
    ],
)
def test_what_is_no_token_address_of_ours(recipient: str) -> None:
    assert tokens_in([recipient], OWN) == ()


@given(st.text("abc+.-", min_size=1, max_size=40), st.binary(min_size=10, max_size=10))
def test_the_address_holds_the_token_or_is_too_long(local: str, raw: bytes) -> None:
    own, token = f"{local}@example.test", make(KEY, ThreadId(b32encode(raw).decode().lower()), 3, SENDER)
    address = address_with(token, own)
    assert (address is None) is (len(local) + 1 + 37 > 64)
    if address:
        assert len(address.partition("@")[0]) <= 64
        assert tokens_in([address], own) == (token,)

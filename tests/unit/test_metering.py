"""What an answer used is read from it, however it is cut into pieces, whatever else is in it."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mailagent.core.metering import Prices, Tally, Tokens, most
from mailagent.core.quota import Spend

OTHERWISE = Tokens(input=1, output=999)
EVENTS = (
    {"type": "message_start", "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 50}}},
    {"type": "content_block_delta", "delta": {"text": 'data: {"usage": {"output_tokens": 7}}'}},
    {"type": "ping"},
    {"type": "message_delta", "usage": {"output_tokens": 11}},
    {"type": "message_delta", "usage": {"output_tokens": 20}},
)
STREAM = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in EVENTS).encode()


def read(*pieces: bytes) -> Tokens:
    tally = Tally()
    for piece in pieces:
        tally.feed(piece)
    return tally.tokens(OTHERWISE)


@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=9))
def test_a_stream_in_any_pieces_says_the_same(cuts: set[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in pairwise(bounds)]
    assert read(*pieces) == Tokens(input=3, output=20, cache_read=50)


@given(st.integers(0, len(STREAM)))
def test_a_stream_that_breaks_off_never_costs_less_than_it_says(end: int) -> None:
    tokens = read(STREAM[:end])
    assert tokens.output in (11, 20, 999)
    assert tokens.input in (1, 3)


@given(st.binary(max_size=200))
def test_what_says_nothing_of_itself_cost_what_it_might(data: bytes) -> None:
    assert read(data, b"\n" + data) == OTHERWISE


def test_counts_that_are_none_are_not_counted() -> None:
    usage = {"input_tokens": -5, "output_tokens": "7", "cache_read_input_tokens": None, "cache_creation": [1]}
    assert read(json.dumps({"usage": usage}).encode()) == OTHERWISE
    assert read(b'{"usage": {"input_tokens": 4}}') == Tokens(input=4)


def test_what_was_asked_several_times_for_one_answer_counts_each_time() -> None:
    parts = [
        {"type": "compaction", "input_tokens": 180, "output_tokens": 35},
        {"input_tokens": 23, "output_tokens": 10},
    ]
    usage = {"input_tokens": 23, "output_tokens": 10, "cache_read_input_tokens": 7, "iterations": [*parts, "odd"]}
    assert read(json.dumps({"usage": usage}).encode()) == Tokens(input=203, output=45, cache_read=7)


def test_each_kind_of_token_has_its_price() -> None:
    prices = Prices(input=2, output=10, cache_write=3, cache_read=0.5)
    spend = Tokens(input=1, output=10, cache_write=100, cache_hour=1000, cache_read=10_000).spend(prices)
    assert spend == Spend(1, 11_111, (2 + 100 + 300 + 4000 + 5000) / 1e6)


@given(st.builds(Prices, *[st.floats(0, 100)] * 4), st.lists(st.integers(0, 10**6), min_size=4, max_size=4))
def test_no_answer_costs_more_than_the_most(prices: Prices, read: list[int]) -> None:
    tokens = Tokens(read[0], 7, read[1], read[2], read[3])
    ceiling = most(tokens.read, 7, prices).spend(prices)
    assert ceiling.tokens == tokens.spend(prices).tokens
    assert ceiling.dollars >= tokens.spend(prices).dollars * (1 - 1e-9)


@given(st.integers(0, 40))
def test_an_answer_that_is_no_stream_may_end_its_line(cut: int) -> None:
    answer = json.dumps({"type": "message", "usage": {"input_tokens": 5, "output_tokens": 6}}).encode() + b"\n"
    assert read(answer[:cut], answer[cut:]) == read(answer[:-1]) == Tokens(input=5, output=6)

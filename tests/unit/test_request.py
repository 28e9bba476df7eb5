"""What a request to the model may cost at most is never less than what it can be, and not absurdly more."""

import json
from typing import Any

import pytest

from mailagent.core.request import EXTRA_TOKENS, IMAGE_TOKENS, admit

WINDOW = 200_000
DATA = "A" * 30_000


def block(kind: str, source: str, data: str = DATA) -> dict[str, Any]:
    return {"type": kind, "source": {"type": source, "media_type": "x/y", "data": data}}


def read(content: Any, **more: Any) -> int:
    """The most tokens of it, beside those that every request may have."""
    asked = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": content}], **more}
    return admit(json.dumps(asked).encode(), "m", 9, WINDOW).reads - EXTRA_TOKENS


def test_each_byte_of_text_may_be_a_token() -> None:
    assert 30_000 < read(DATA) < 30_200
    assert 30_000 < read("ü" * 15_000) < 30_200
    assert 30_000 < read([block("document", "text")]) < 30_200
    assert 30_000 < read("x", system=DATA) < 30_200


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_picture_is_as_many_as_the_largest_whatever_its_bytes(size: int) -> None:
    picture = block("image", "base64", "A" * size)
    for content in ([picture] * 3, [{"type": "tool_result", "tool_use_id": "t", "content": [picture] * 3}]):
        assert 3 * IMAGE_TOKENS < read(content) < 3 * IMAGE_TOKENS + 500
    wrapped = {"type": "document", "source": {"type": "content", "content": [picture] * 3}}
    assert 3 * IMAGE_TOKENS < read([wrapped]) < 3 * IMAGE_TOKENS + 500


def test_what_only_looks_like_a_picture_is_text() -> None:
    called = {"type": "tool_use", "id": "t", "name": "n", "input": block("image", "base64")}
    assert 30_000 < read([called]) < 30_500


def test_a_document_may_have_any_number_of_pages() -> None:
    assert read([block("document", "base64", "A")]) == WINDOW - EXTRA_TOKENS


def test_nothing_is_more_than_the_model_can_read() -> None:
    assert read("A" * 300_000) == WINDOW - EXTRA_TOKENS

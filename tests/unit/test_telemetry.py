"""What the log looks like when strangers write what is logged."""

import logging
from collections.abc import Iterator

import pytest

from mailagent.adapters import telemetry

FORGED = "x\n<0>kernel: gone\r2026-11-23 12:00:00 ERROR\x1b[2J\x85a\u2028b\u2029c\u202ed\x00\udc80"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("mailagent").level
    yield
    root.handlers[:], level, ours = before
    root.setLevel(level)
    logging.getLogger("mailagent").setLevel(ours)


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard error, however they are broken."""
    telemetry.start()
    log = logging.getLogger("mailagent.test")
    log.info("file %s", FORGED)
    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception("job %s", FORGED)
    return capsys.readouterr().err.splitlines()


def test_a_message_is_one_line_and_a_traceback_is_set_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    first, second, *rest = said(capsys)
    assert r"file x\n<0>kernel: gone\r2026-11-23 12:00:00 ERROR\x1b[2J\x85a\u2028b\u2029c\u202ed\x00\udc80" in first
    assert second.endswith(r"\udc80")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_in_the_journal_each_line_has_a_priority_of_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    first, *rest = said(capsys)
    assert first.startswith("<6>mailagent.test: file x")
    assert all(line.startswith("<3>") for line in rest)
    assert rest[1] == "<3>    Traceback (most recent call last):"


@pytest.mark.parametrize("char", ["\U0001f600", "\U000e0001"])
def test_a_line_is_never_so_long_that_the_journal_breaks_it(capsys: pytest.CaptureFixture[str], char: str) -> None:
    telemetry.start()
    logging.getLogger("mailagent.test").warning("%s", char * 100_000)
    assert len(capsys.readouterr().err.encode()) < 48 * 1024

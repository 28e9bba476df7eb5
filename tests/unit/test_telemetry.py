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


@pytest.mark.parametrize("journal", ["8:1", ""])
def test_a_record_has_no_more_lines_than_are_of_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, journal: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", journal)
    telemetry.start()
    try:
        raise ValueError("\n" * 100_000 + "the end")
    except ValueError:
        logging.getLogger("mailagent.test").exception("job")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == telemetry.MOST_LINES + 2
    assert "Traceback" in lines[1]
    assert lines[-1].endswith("the end")
    assert sum("lines …" in line for line in lines) == 1


def test_a_library_says_only_so_much_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even when code in a sandbox makes it say more; it silences nobody else."""
    telemetry.start()
    for number in range(10 * telemetry.RECORDS_A_MINUTE):
        record = logging.LogRecord("claude_agent_sdk.a", logging.WARNING, "", 0, "frame %d", (number,), None)
        record.created = 1_700_000_000.0 + (60 if number > 5 * telemetry.RECORDS_A_MINUTE else 0)
        logging.getLogger("claude_agent_sdk.a").handle(record)
    logging.getLogger("redis").warning("away")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 * telemetry.RECORDS_A_MINUTE + 1
    assert sum("the last of this minute" in line for line in lines) == 2
    assert lines[-1].endswith("away")


def test_of_ours_every_line_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.start()
    for number in range(2 * telemetry.RECORDS_A_MINUTE):
        logging.getLogger("mailagent.test").info("mail %d", number)
    assert len(capsys.readouterr().err.splitlines()) == 2 * telemetry.RECORDS_A_MINUTE

"""Logs: one line an event on standard error, with the journal's priority where the journal listens."""

import logging
import os
import sys
from collections import Counter
from copy import copy

PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
LONGEST = 8000
"""Characters of a line: fewer than the 48 KB after which the journal takes the rest for a line of its own
(journald.conf(5), LineMax=)."""
MOST_LINES = 200
"""Of one record: more than a traceback has that is of use."""
RECORDS_A_MINUTE = 60
"""Of one library: more than any has had to say that nobody made it say."""


class OneLineFormatter(logging.Formatter):
    """What it says is one line, and each line of a traceback is set in: file names and errors hold what strangers and
    their code wrote, who would break lines, move the cursor, and forge what others said. Of very many lines those in
    the middle are left out."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and those of the traceback."""
        shown = copy(record)
        shown.msg, shown.args = _printable(record.getMessage()), ()
        line, *traceback = super().format(shown).split("\n")
        if len(traceback) > MOST_LINES:
            traceback[MOST_LINES // 2 : -MOST_LINES // 2] = [f"… {len(traceback) - MOST_LINES} lines …"]
        return "\n".join([line, *(f"    {_printable(each)}" for each in traceback)])


class JournalFormatter(OneLineFormatter):
    """`<N>` before each line (sd-daemon(3)); the journal adds time and unit."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines for the journal."""
        mark = f"<{PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(f"{mark}{line}" for line in super().format(record).split("\n"))


class Sparing(logging.Filter):
    """Lets a library say only so much a minute: code in a sandbox can make the SDK say a line for each that it says
    itself. What we say ourselves is bounded where it is said."""

    def __init__(self) -> None:
        super().__init__()
        self._minute = 0.0
        self._said: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether there is room for it; the last one in its minute says that it is."""
        library, minute = record.name.partition(".")[0], record.created // 60
        if minute != self._minute:
            self._minute, self._said = minute, Counter()
        self._said[library] += library != "mailagent"
        if self._said[library] == RECORDS_A_MINUTE:
            record.msg, record.args = f"(the last of this minute) {record.getMessage()}", ()
        return self._said[library] <= RECORDS_A_MINUTE


def start(level: int = logging.INFO) -> None:
    """Send the daemon's logs to standard error; libraries speak up only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Sparing())
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mailagent").setLevel(level)


def _printable(text: str) -> str:
    """The text as Python would show it in quotes, cut where that is too long: what would not be seen, is."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"

"""Logs: one line an event on standard error, with the journal's priority where the journal listens."""

import logging
import os
import sys

PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class JournalFormatter(logging.Formatter):
    """`<N>` before the line (sd-daemon(3)); the journal adds time and unit."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for the journal."""
        return f"<{PRIORITY.get(record.levelno, 6)}>{super().format(record)}"


def start(level: int = logging.INFO) -> None:
    """Send the daemon's logs to standard error; libraries speak up only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mailagent").setLevel(level)

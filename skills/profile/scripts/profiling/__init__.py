"""The parts of profile_tables.py: what a file is, how its text is laid out, what its columns mean, what to say."""


class UnreadableError(Exception):
    """A file is no table we can read; `str(error)` completes the sentence "orders.xlsx …" for its sender."""


def one_line(text: str, without: str = "`") -> str:
    """The text on one line without anything unprintable, and without these characters."""
    return " ".join("".join(c if c.isprintable() and c not in without else " " for c in text).split())

"""The parts of profile_tables.py: what a file is, how its text is laid out, what its columns mean, what to say."""


class UnreadableError(Exception):
    """A file is no table we can read; `str(error)` completes the sentence "orders.xlsx …" for its sender."""

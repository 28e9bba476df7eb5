"""The four errors of mailagent; an adapter maps every vendor error to one of them."""


class TemporaryError(Exception):
    """It may work later: try again with backoff. `uncertain` when it may have been done all the same."""

    def __init__(self, reason: str, *, uncertain: bool = False) -> None:
        super().__init__(reason)
        self.uncertain = uncertain


class PermanentError(Exception):
    """It will never work: the job is dead. `str(error)` is in plain words that a sender may read, unless it is not
    `for_sender`."""

    def __init__(self, reason: str, *, for_sender: bool = True) -> None:
        super().__init__(reason)
        self.for_sender = for_sender


class LeaseLostError(Exception):
    """Another worker holds this thread now: drop the work silently."""


class ConfigError(Exception):
    """The set-up is wrong; `faults` says every fault at once, each with its mend (exit code 2)."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults

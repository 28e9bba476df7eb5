"""What a place to run hostile code in must keep: adapters/bubblewrap.py does on this host, with and without gVisor.

One elsewhere (a host behind SSH, a service) would, too: docs/decisions/0007-gvisor-inside-bubblewrap.md says how."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.policy import Policy


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program in the sandbox ended: its exit code and what it printed."""

    code: int
    output: str
    errors: str


class Held(Protocol):
    """A sandbox that is there or will be, until its end."""

    failure: PermanentError | TemporaryError | None
    """Why it was ended before its time."""

    @property
    def launcher(self) -> Path:
        """The program that starts it, with the words, the standard input and the output of what runs inside."""

    def seize(self) -> None:
        """Take hold of it, as soon as it is there and before hostile code runs."""

    async def look(self) -> None:
        """Look once at what it uses; raises what it must end for."""

    async def end(self) -> None:
        """Return when nothing inside lives any more."""


class Sandbox(Protocol):
    """Where the agent and what it writes run. A policy is kept whole, or nothing is started."""

    def launch(self, place: Path, policy: Policy, command: Sequence[str] = ()) -> Held:
        """A sandbox for this command or, for the SDK to start in place of the CLI, for the same CLI, whose directory is
        named by CLAUDE_CONFIG_DIR. What its start needs is written to `place`, which is there until the end."""

    async def run(self, policy: Policy, command: Sequence[str], *, timeout: float) -> Finished:
        """Run a program of ours in a sandbox of its own. TemporaryError after `timeout` seconds or when it prints too
        much, PermanentError when it takes more than the policy allows."""

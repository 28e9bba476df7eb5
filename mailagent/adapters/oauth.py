"""Logging in with an access token (XOAUTH2, for Gmail and Microsoft 365): a program of the operator's prints it."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence

from mailagent.config import SECRETS
from mailagent.core.errors import TemporaryError

_TOKEN = re.compile(rb"[\x21-\x7e]+")


def access_token(command: Sequence[str], seconds: float) -> str:
    """What the program prints: a token of visible ASCII alone; blocks. It is asked anew for each connection, since a
    token is good for an hour at most. Its standard error is ours, for the operator to read.

    Raises TemporaryError, in which nothing stands that the program printed."""
    program = command[0]
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name not in _OURS},
            start_new_session=True,
        ) as process:
            try:
                printed, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what it started, which may hold the pipe open
                raise TemporaryError(f"token_command: {program} printed no token in {seconds:g} s") from None
    except OSError as error:
        raise TemporaryError(f"token_command: {program} cannot be run: {error.strerror}") from error
    if process.returncode:
        raise TemporaryError(f"token_command: {program} failed with exit code {process.returncode}")
    token = printed.strip()
    if not _TOKEN.fullmatch(token):
        raise TemporaryError(f"token_command: {program} printed something else than one token")
    return token.decode("ascii")


def xoauth2(user: str, token: str) -> Callable[..., str]:
    """What a client answers to each challenge (Google and Microsoft document it, no RFC does): who it is; and then, to
    one that says why that is no good, nothing."""
    answers = iter([f"user={user}\1auth=Bearer {token}\1\1"])
    return lambda _challenge=None: next(answers, "")


_OURS = {variable for variable, _ in SECRETS.values()}

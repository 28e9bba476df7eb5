"""The keys that sign reply tokens: given as a secret, or made at the first start and kept in a file."""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from mailagent.adapters.disk import sync
from mailagent.core.errors import ConfigError
from mailagent.core.token import Key

FILE = "token.key"
"""The name of the file in the state directory."""

_BYTES = 32


def token_keys(given: str, state: Path) -> tuple[Key, ...]:
    """The keys in the secret `given`, or without one those in the file `token.key` of the state directory, which is
    made, with one random key in it, when it is not there: durably, since addresses that it signed outlive this start.

    The first signs, all verify: a new key is put before the others. Raises ConfigError when they cannot be used."""
    found = keys_at_hand(given, state)
    if not found:
        _make(state)
        found = keys_at_hand(given, state)
    if not found:
        raise ConfigError(f"{state / FILE} cannot be read: give it to the user that the daemon runs as")
    return found


def keys_at_hand(given: str, state: Path) -> tuple[Key, ...]:
    """The same without making anything: () when there is no key, or none that we may read. Raises ConfigError."""
    if given:
        return _keys(given, "the secret MAILAGENT_TOKEN_KEY (credential token-key)")
    path = state / FILE
    try:
        return _keys(path.read_text("ascii", "replace"), str(path))
    except (FileNotFoundError, PermissionError):
        return ()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: the keys of reply tokens cannot be read") from error


def _keys(text: str, where: str) -> tuple[Key, ...]:
    try:
        found = [bytes.fromhex(word) for word in text.split()]
    except ValueError:
        found = []
    if not found or any(len(secret) != _BYTES for secret in found):
        raise ConfigError(
            f"{where} must hold keys of {2 * _BYTES} hexadecimal digits, the newest first: openssl rand -hex 32"
        )
    return tuple(Key(hashlib.sha256(secret).digest()[0], secret) for secret in found)


def _make(state: Path) -> None:
    """Whole or not at all, and never in place of one that is there."""
    new = state / f"{FILE}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_hex(_BYTES)}\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another start was faster
            os.link(new, state / FILE)
        new.unlink()
        sync(state)
    except OSError as error:
        raise ConfigError(f"{state / FILE}: {error.strerror}: no key for reply tokens can be made") from error

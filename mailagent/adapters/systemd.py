"""What systemd tells a service and hears from it: credentials, READY, WATCHDOG (sd_notify(3), systemd.exec(5))."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from mailagent.core.errors import ConfigError

START_SECONDS = 60
"""How much longer a start may take, each time that it is said."""


def credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The text of each file in $CREDENTIALS_DIRECTORY by its name; empty without that directory. ConfigError for one
    that is not UTF-8."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    return {path.name: _secret(path) for path in Path(directory).iterdir() if path.is_file()}


def _secret(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"the credential {path.name} is not UTF-8: write it as UTF-8") from error


def notify(state: str) -> None:
    """Tell the service manager, where there is one, such as `READY=1`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall(state.encode())


@asynccontextmanager
async def starting(stopping: asyncio.Event) -> AsyncIterator[asyncio.Event]:
    """Until the event that it yields or that one is set, ask the manager for more time than TimeoutStartSec: Redis may
    have much to load, and a mail server that is away is waited for. A start cut off for that gains nothing."""
    started = asyncio.Event()

    async def ask() -> None:
        while not (started.is_set() or stopping.is_set()):
            notify(f"EXTEND_TIMEOUT_USEC={START_SECONDS * 1_000_000}")
            await asyncio.sleep(START_SECONDS / 3)

    asking = asyncio.create_task(ask())
    try:
        yield started
    finally:
        asking.cancel()


async def pet() -> None:
    """Tell the manager for ever that the loop still turns, as often as it wants to hear it."""
    every = watchdog_seconds()
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(every or 3600.0)


def watchdog_seconds() -> float | None:
    """How often `WATCHDOG=1` is due: half of what the manager waits; None when it does not watch."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    return int(microseconds) / 2_000_000 if microseconds else None

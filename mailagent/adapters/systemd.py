"""What systemd tells a service and hears from it: credentials, READY, WATCHDOG (sd_notify(3), systemd.exec(5))."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path


def credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The text of each file in $CREDENTIALS_DIRECTORY by its name; empty without that directory."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    return {path.name: path.read_text().strip() for path in Path(directory).iterdir() if path.is_file()}


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


def watchdog_seconds() -> float | None:
    """How often `WATCHDOG=1` is due: half of what the manager waits; None when it does not watch."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    return int(microseconds) / 2_000_000 if microseconds else None

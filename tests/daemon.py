"""The installed daemon as a process of its own, for tests: started, waited for, stopped."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

SECRETS = {"MAILAGENT_IMAP_PASSWORD": "secret", "MAILAGENT_SMTP_PASSWORD": "secret"}


@dataclass
class Daemon:
    """A running `mailagent run`, with all that it logged."""

    process: asyncio.subprocess.Process
    settings: Path
    log: list[str] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def logged(self, words: str, timeout: float = 60.0) -> str:
        """The first line with these words, waited for."""
        async with asyncio.timeout(timeout), self.news:
            while True:
                found = [line for line in self.log if words in line]
                if found:
                    return found[0]
                await self.news.wait()

    async def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.terminate()
        async with asyncio.timeout(60):
            return await self.process.wait()


def clean_environment(place: Path) -> dict[str, str]:
    """What a service has: no variables of the developer's."""
    return {"PATH": os.environ["PATH"], "HOME": str(place), "LANG": "C.UTF-8", **SECRETS}


def program() -> str:
    """The installed command."""
    return str(Path(sys.executable).parent / "mailagent")


def command(name: str, settings: Path, *more: str) -> list[str]:
    """The installed command on these settings."""
    return [program(), name, "--config", str(settings), *more]


async def mailagent(place: Path, name: str, settings: Path, *more: str) -> tuple[int, str, str]:
    """Run a command to its end: exit code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        *command(name, settings, *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(place),
    )
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


@asynccontextmanager
async def daemon(place: Path, text: str, more: Mapping[str, str] | None = None) -> AsyncIterator[Daemon]:
    """The daemon with these settings, READY (sd_notify(3)); stopped at the end."""
    settings = place / "mailagent.toml"
    settings.write_text(text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(place / "notify"))
        channel.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            *command("run", settings),
            stderr=asyncio.subprocess.PIPE,
            env={**clean_environment(place), "NOTIFY_SOCKET": str(place / "notify"), **(more or {})},
        )
        running = Daemon(process, settings)
        listening = asyncio.create_task(_listen(running))
        try:
            await _ready(channel, running)
            yield running
        finally:
            if process.returncode is None:
                await running.stop()
            await listening
            (place / "notify").unlink()


async def _listen(running: Daemon) -> None:
    assert running.process.stderr is not None
    async for line in running.process.stderr:
        async with running.news:
            running.log.append(line.decode(errors="replace").rstrip())
            running.news.notify_all()


async def _ready(channel: socket.socket, running: Daemon) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.create_task(running.process.wait())
    try:
        async with asyncio.timeout(60):
            while True:
                said = asyncio.create_task(loop.sock_recv(channel, 4096))
                await asyncio.wait({said, ended}, return_when=asyncio.FIRST_COMPLETED)
                if said.done() and b"READY=1" in said.result():
                    return
                if ended.done():
                    said.cancel()
                    raise AssertionError("the daemon ended before it was ready:\n" + "\n".join(running.log))
    finally:
        ended.cancel()

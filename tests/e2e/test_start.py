"""How a start takes its time, as the service manager sees it."""

import asyncio
import os
import socket
from pathlib import Path

from tests.daemon import clean_environment, command
from tests.listening import free_port
from tests.settings import settings_text


async def test_a_start_that_waits_for_a_mail_server_asks_for_time(short_path: Path) -> None:
    settings = short_path / "mailagent.toml"
    settings.write_text(settings_text(short_path, model_url="http://127.0.0.1:9", imap_port=free_port()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(short_path / "notify"))
        channel.setblocking(False)
        environment = {**clean_environment(short_path), "NOTIFY_SOCKET": str(short_path / "notify")}
        process = await asyncio.create_subprocess_exec(
            *command("run", settings), stderr=asyncio.subprocess.PIPE, env=environment
        )
        assert process.stderr
        async with asyncio.timeout(60):
            while b"again in" not in await process.stderr.readline():
                pass
        process.terminate()
        await process.communicate()
        told = b""
        while data := await _next(channel):
            told += data + b"\n"
    assert b"EXTEND_TIMEOUT_USEC=60000000" in told
    assert b"READY=1" not in told
    assert process.returncode == os.EX_OK


async def _next(channel: socket.socket) -> bytes:
    try:
        return channel.recv(4096)
    except BlockingIOError:
        return b""

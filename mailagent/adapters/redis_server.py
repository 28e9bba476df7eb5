"""The system's redis-server as a private child: on a unix socket, with every write on disk before it is answered."""

import asyncio
import fcntl
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from mailagent.core.errors import ConfigError, TemporaryError

_MISSING = "redis-server (7 or newer) is missing: apt-get install redis-server"
_SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "save": "",
    "daemonize": "no",
}
_LOCK_SECONDS = 5.0
_STOP_SECONDS = 10.0


class PrivateRedis:
    """One redis-server that keeps its data in `state_dir`/redis, answers at `url` and never outlives this process."""

    def __init__(self, state_dir: Path, runtime_dir: Path, program: str = "redis-server") -> None:
        self._data = state_dir / "redis"
        self._socket = runtime_dir / "redis" / "redis.sock"
        self._program = program
        self._process: Process | None = None
        self.url = f"unix://{quote(str(self._socket))}"

    async def start(self) -> None:
        """Start it and wait until it has loaded what it kept, however it ended the last time.

        Raises ConfigError when the program is missing or too old or does not start, TemporaryError while the directory
        is in use."""
        program = await find_server(self._program)
        for directory in (self._data, self._socket.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        with (self._data / "lock").open("ab") as lock:
            await _lock(lock)
            self._socket.unlink(missing_ok=True)
            self._process = await self._spawn(program, lock.fileno())
        while not await self._answers():
            if self._process.returncode is not None:
                raise ConfigError(f"redis-server does not start: {self._last_words()}")
            await asyncio.sleep(0.01)

    async def wait(self) -> None:
        """Return when the server ended by itself, as it does when the disk is full: nothing can be kept any more."""
        if self._process:
            await self._process.wait()

    async def stop(self) -> None:
        """Shut it down; returns when it has ended."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _spawn(self, program: str, lock: int) -> Process:
        places = {"dir": self._data, "logfile": self._log, "unixsocket": self._socket}
        settings = [text for name, value in {**_SETTINGS, **places}.items() for text in (f"--{name}", str(value))]
        with self._log.open("ab") as log:
            # setpriv ends the server with the thread that starts it, so even if we are killed (prctl(2)); a session of
            # its own keeps a terminal's Ctrl-C from it; the lock lives as long as the server does.
            return await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", program, *settings),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock,),
            )

    async def _answers(self) -> bool:
        """True for PONG; while it loads it says LOADING."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        except OSError:
            return False
        finally:
            writer.close()

    @property
    def _log(self) -> Path:
        return self._data / "redis.log"

    def _last_words(self) -> str:
        return self._log.read_text("utf-8", "replace").strip().rpartition("\n")[2] or f"see {self._log}"


async def find_server(program: str = "redis-server") -> str:
    """The path of the program. Raises ConfigError when it, or the setpriv that ties it to us, is missing or too old."""
    path = shutil.which(program)
    if path is None:
        raise ConfigError(_MISSING)
    if shutil.which("setpriv") is None:
        raise ConfigError("setpriv is missing: apt-get install util-linux")
    process = await asyncio.create_subprocess_exec(path, "--version", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    said, _ = await process.communicate()
    version = re.search(rb"v=(\d+)", said)
    if version is None or int(version[1]) < 7:
        raise ConfigError(_MISSING)
    return path


async def _lock(file: BinaryIO) -> None:
    """Lock a data directory, whose server may be about to end with a daemon that was killed: it may take longer than
    this, on a disk that hangs. Two daemons do not come this far, as the state directory is one's own."""
    clock = asyncio.get_running_loop().time
    until = clock() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock() > until:
                raise TemporaryError(f"{file.name} is held by a server that has not ended: start again soon") from None
            await asyncio.sleep(0.05)
        else:
            return

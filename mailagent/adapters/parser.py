"""core.parse behind a wall: mail is read in a child process with little memory, little time and no secrets.

What comes back is JSON and bytes, never a pickle: a child that a mail got the better of can lie, but no more."""

import asyncio
import logging
import math
import resource
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.parse import parse
from mailagent.core.values import Inbound

_SIZE = struct.Struct("!Q")
_FIRST = b"From: a@example.org\r\nContent-Type: text/html\r\n\r\n<p>On Monday, a@example.org wrote:<p>&gt; hello"
"""Read by the child before the first message: whatever is made ready only when it is needed is ready then."""
_BEYOND = "The mail cannot be read within the limits of time and memory."


@dataclass(frozen=True, slots=True)
class Limits:
    """What one message may take: address space in bytes, CPU seconds, seconds by the clock."""

    memory: int = 1 << 30
    cpu_seconds: int = 20
    wall_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a child says: the message without the bytes of its attachments, which follow, or what is wrong with it."""

    inbound: Inbound | None
    error: str
    sizes: tuple[int, ...]


_ANSWER: TypeAdapter[_Answer] = TypeAdapter(_Answer)


class ChildParser:
    """ports.Parser, one message at a time, in a child that lives until a message is too much for it, or `close`."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._turn = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the child, so that the first message does not wait for it; it gets ready on its own meanwhile.

        TemporaryError when no process can be started."""
        async with self._turn:
            await self._started()

    async def parse(self, raw: bytes) -> Inbound:
        """The message understood. PermanentError when core.parse says so, when a limit is reached, or when its child
        dies of it; TemporaryError when no process can be started."""
        async with self._turn:
            child = await self._started()
            whole = False
            try:
                async with asyncio.timeout(self._limits.wall_seconds):
                    answer = await _exchange(child, raw)
                whole = True
            except (TimeoutError, EOFError, OSError, ValueError) as error:
                raise PermanentError(_BEYOND) from error
            finally:
                if not whole:  # its answer may still come, and must not be taken for that to the next message
                    await self._end()
        if answer.inbound is None:
            raise PermanentError(answer.error)
        return answer.inbound

    async def close(self) -> None:
        """End the child, once the message at hand is read."""
        async with self._turn:
            await self._end()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._child and self._child.returncode is None:
            return self._child
        await self._end()
        limits = (str(self._limits.memory), str(self._limits.cpu_seconds))
        try:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", __name__, *limits),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={"LANG": "C.UTF-8"},  # the daemon's own holds secrets
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the daemon, which lets it finish
            )
        except OSError as error:
            raise TemporaryError(f"cannot start the process that reads mail: {error}") from error
        return self._child

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is None or child.stdin is None:
            return
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
        child.stdin.close()
        await child.communicate()


async def _exchange(child: asyncio.subprocess.Process, raw: bytes) -> _Answer:
    """The answer to a message. EOFError, OSError, ValueError when the child, or what it says, is broken."""
    writer, reader = child.stdin, child.stdout
    if writer is None or reader is None:
        raise EOFError
    writer.writelines([_SIZE.pack(len(raw)), raw])
    await writer.drain()
    total, head = _SIZE.unpack(await reader.readexactly(8))[0], _SIZE.unpack(await reader.readexactly(8))[0]
    if total > _most(len(raw)) or head > total:
        raise ValueError("the answer is larger than any answer can be")
    answer = _ANSWER.validate_json(await reader.readexactly(head))
    if min(answer.sizes, default=0) < 0 or _SIZE.size + head + sum(answer.sizes) != total:
        raise ValueError("the answer is not as long as it says")
    if answer.inbound is None:
        return answer
    files = [
        (file, await reader.readexactly(size))
        for file, size in zip(answer.inbound.attachments, answer.sizes, strict=True)
    ]
    return replace(
        answer, inbound=replace(answer.inbound, attachments=tuple(replace(f, data=data) for f, data in files))
    )


def _most(raw: int) -> int:
    """How long the answer to a message may be: escaped as JSON, text can grow eightfold."""
    return 8 * raw + (1 << 20)


# What follows runs in the child.


def _serve(memory: int, cpu_seconds: int) -> None:
    """Answer each message that comes in; end when none can come any more."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    logging.disable()  # what tnefparse logs would be lines in the daemon's own log, as many as a mail likes
    parse(_FIRST)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    while head := requests.read(_SIZE.size):
        raw = requests.read(_SIZE.unpack(head)[0])
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + cpu_seconds)
        for part in _answer(raw):
            answers.write(part)
        answers.flush()


def _limit(what: int, value: int) -> None:
    """Set the soft limit: at that of CPU time the kernel ends the process (SIGXCPU)."""
    resource.setrlimit(what, (value, resource.getrlimit(what)[1]))


def _answer(raw: bytes) -> Iterator[bytes]:
    try:
        inbound = parse(raw)
    except PermanentError as error:
        yield from _packed(_Answer(None, str(error), ()), [])
        return
    except MemoryError:  # what is left is in pieces: the next message gets a new child
        raise SystemExit("mail: a message needs more memory than it may have") from None
    data = [file.data for file in inbound.attachments]
    bare = replace(inbound, attachments=tuple(replace(file, data=b"") for file in inbound.attachments))
    yield from _packed(_Answer(bare, "", tuple(map(len, data))), data)


def _packed(answer: _Answer, data: list[bytes]) -> Iterator[bytes]:
    head = _ANSWER.dump_json(answer)
    yield _SIZE.pack(_SIZE.size + len(head) + sum(answer.sizes))
    yield _SIZE.pack(len(head)) + head
    yield from data


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))

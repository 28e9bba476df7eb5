"""core.parse behind a wall: each message is read in a process of its own, with little memory, little time, no secrets.

A nursery process imports everything once and reads no mail; for each message it forks a child that does, so that
nothing of one message can reach the next. What comes back is JSON and bytes, never a pickle."""

import asyncio
import os
import resource
import signal
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.parse import parse
from mailagent.core.values import Inbound

_SIZE = struct.Struct("!Q")
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
    """ports.Parser, one message at a time; `close` ends the nursery."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._turn = asyncio.Lock()
        self._nursery: asyncio.subprocess.Process | None = None

    async def parse(self, raw: bytes) -> Inbound:
        """The message understood. PermanentError when core.parse says so, when a limit is reached, or when its child
        dies of it; TemporaryError when no process can be started."""
        async with self._turn:
            nursery = await self._started()
            whole = False
            try:
                async with asyncio.timeout(self._limits.wall_seconds):
                    answer = await _exchange(nursery, raw)
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
        """End the nursery, once the message at hand is read."""
        async with self._turn:
            await self._end()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._nursery and self._nursery.returncode is None:
            return self._nursery
        await self._end()
        limits = (str(self._limits.memory), str(self._limits.cpu_seconds))
        try:
            self._nursery = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", __name__, *limits),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={"LANG": "C.UTF-8"},  # the daemon's own holds secrets
                cwd="/",
                start_new_session=True,  # a process group, so that the children can be ended with it
            )
        except OSError as error:
            raise TemporaryError(f"cannot start the process that reads mail: {error}") from error
        return self._nursery

    async def _end(self) -> None:
        nursery, self._nursery = self._nursery, None
        if nursery is None or nursery.stdin is None:
            return
        if nursery.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(nursery.pid, signal.SIGKILL)
        nursery.stdin.close()
        await nursery.communicate()


async def _exchange(nursery: asyncio.subprocess.Process, raw: bytes) -> _Answer:
    """The answer to a message. EOFError, OSError, ValueError when the nursery, or what it says, is broken."""
    writer, reader = nursery.stdin, nursery.stdout
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


# What follows runs in the nursery.


def _nurse(memory: int, cpu_seconds: int) -> None:
    """Fork a child for each message that comes in; end when nothing more can come."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := requests.read(_SIZE.size):
        answer = _child(requests.read(_SIZE.unpack(head)[0]), memory, cpu_seconds)
        answers.writelines([_SIZE.pack(len(answer)), answer])
        answers.flush()


def _child(raw: bytes, memory: int, cpu_seconds: int) -> bytes:
    """What a child, forked for this message, makes of it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _wall_in(memory, cpu_seconds)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(_answer(raw))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read(_most(len(raw)))
    if len(answer) == _most(len(raw)):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return answer if status == 0 else _packed(_Answer(None, _BEYOND, ()))


def _wall_in(memory: int, cpu_seconds: int) -> None:
    os.close(sys.stdin.fileno())  # the messages after this one are none of its business
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))


def _answer(raw: bytes) -> bytes:
    try:
        inbound = parse(raw)
    except PermanentError as error:
        return _packed(_Answer(None, str(error), ()))
    except MemoryError:
        return _packed(_Answer(None, _BEYOND, ()))
    data = [file.data for file in inbound.attachments]
    bare = replace(inbound, attachments=tuple(replace(file, data=b"") for file in inbound.attachments))
    return _packed(_Answer(bare, "", tuple(map(len, data)))) + b"".join(data)


def _packed(answer: _Answer) -> bytes:
    head = _ANSWER.dump_json(answer)
    return _SIZE.pack(len(head)) + head


if __name__ == "__main__":
    _nurse(int(sys.argv[1]), int(sys.argv[2]))

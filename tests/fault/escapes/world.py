"""What there is to reach outside: a daemon with a key in its environment, its Redis, a neighbour, listeners, a model's
server that says what it was asked; and the three ways to run attempts among them: inside, without, and weakened."""

import asyncio
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from copy import copy
from dataclasses import dataclass, replace
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSCTTY
from typing import Any

from aiohttp import web

from mailagent.adapters import bubblewrap
from mailagent.adapters.claude import ClaudeAgent, ClaudeSession
from mailagent.core.policy import ANALYSIS, CLI, MODEL_SOCKET, PLUGIN, WORKSPACE, Host, Policy, arguments
from mailagent.core.values import ThreadId
from mailagent.demo.rules import RulesModel
from mailagent.ports import Workspace
from tests.dns_peer import name_server
from tests.fault.escapes import attempt
from tests.integration.test_session import PAYER, Desk, desk

SECRET = "the-real-key"
ABSTRACT = "mailagent-escapes"
HERE = Path(__file__).parent
INSIDE = {
    "workspace": WORKSPACE,
    "skills": f"{PLUGIN}/skills",
    "analysis": ANALYSIS,
    "etc": "/etc",
    "cli": CLI,
    "model": MODEL_SOCKET,
    "asked": MODEL_SOCKET,
}
"""What a sandbox shows elsewhere."""

DAEMON = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None)
libc.prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)  # let everybody trace it, where Yama asks (prctl(2))
libc.shmat.restype = ctypes.c_void_p
key = ctypes.create_string_buffer(b"the-real-key")
sysv = libc.shmget(0, 4096, 0o600)
ctypes.memmove(libc.shmat(sysv, None, 0), key, 12)
libc.shmctl(sysv, 0, None)  # it goes with its last user
print(json.dumps({"address": ctypes.addressof(key), "sysv": sysv}), flush=True)
sys.stdin.read()
"""


@dataclass
class World:
    """Everything that attempts reach for, by name; and the policy of the sandbox that they are in."""

    desk: Desk
    own: Workspace
    policy: Policy
    targets: dict[str, Any]
    kit: Path

    def command(self, names: Iterable[str], *, inside: bool) -> list[str]:
        targets = {**self.targets, **INSIDE} if inside else self.targets
        kit = f"{WORKSPACE}/work/{self.kit.name}" if inside else self.kit
        return attempt.command(f"{targets['analysis']}/bin/python", kit, names, targets)

    async def inside(self, names: Sequence[str]) -> dict[str, str]:
        """How they end in a sandbox as the daemon starts it."""
        done = await bubblewrap.run(self.policy, self.command(names, inside=True), timeout=60)
        return _told(names, done.output, done.errors)

    async def bare(self, names: Sequence[str]) -> dict[str, str]:
        """How they end for the same user on the host."""
        left_open = os.open(self.targets["settings"], os.O_RDONLY)
        try:
            return await self._run(names, self.command(names, inside=False), pass_fds=(left_open,))
        finally:
            os.close(left_open)

    async def weakened(self, names: Sequence[str], how: str) -> dict[str, str]:
        """How they end in a sandbox from which something was taken away."""
        start = WEAKENED[how]([*arguments(self.policy, self.targets["etc"]), "--remount-ro", "/"])
        return await self._run(names, [*start, "--", *self.command(names, inside=True)])

    async def at_a_terminal(self, names: Sequence[str], *, weak: bool) -> dict[str, str]:
        """How they end in a sandbox that was started from a terminal."""
        ours, theirs = pty.openpty()
        start = [*arguments(self.policy, self.targets["etc"]), "--remount-ro", "/"]
        if weak:
            start.remove("--new-session")
        command = [*_without(start, "--seccomp"), "--", *self.command(names, inside=True)]
        try:
            return await self._run(
                names, command, start_new_session=True, preexec_fn=lambda: ioctl(theirs, TIOCSCTTY, 0)
            )
        finally:
            os.close(ours)
            os.close(theirs)

    async def _run(self, names: Sequence[str], command: Sequence[str], **how: Any) -> dict[str, str]:
        done = await asyncio.to_thread(
            lambda: subprocess.run(command, capture_output=True, text=True, env={}, timeout=60, check=False, **how)
        )
        return _told(names, done.stdout, done.stderr)


def _told(names: Sequence[str], output: str, errors: str) -> dict[str, str]:
    told: dict[str, str] = dict(json.loads(line) for line in output.splitlines())
    assert list(told) == list(names), (set(names) - set(told), errors)
    return told


def _without(start: list[str], flag: str) -> list[str]:
    """The command without this flag and its value."""
    while flag in start:
        place = start.index(flag)
        start = start[:place] + start[place + 2 :]
    return start


def _writable(start: list[str]) -> list[str]:
    return _without(["--bind" if word == "--ro-bind" else word for word in start], "--remount-ro")


def _capable(start: list[str]) -> list[str]:
    kept = [word for word in _without(start, "--cap-drop") if word != "--disable-userns"]
    return [*("0" if word == "1000" else word for word in kept), "--cap-add", "ALL"]


WEAKENED: dict[str, Callable[[list[str]], list[str]]] = {
    "unfiltered": lambda start: _without(start, "--seccomp"),
    "writable": lambda start: _writable(_without(start, "--seccomp")),
    "capable": lambda start: _capable(_without(start, "--seccomp")),
}
"""By what is taken away: the filter; and with it the write protection, or the loss of all capabilities."""


class Echo(RulesModel):
    """A model's server that answers every request, on every path, with what it was asked."""

    def __init__(self, replay: object = None) -> None:
        super().__init__()
        self._runner.app.router.add_route("*", "/{any:.*}", self._messages)

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read())[:1000].decode()
        return web.Response(text=f"{request.method} {request.url} {dict(request.headers)} {body}")


@asynccontextmanager
async def world(place: Path) -> AsyncIterator[World]:
    """All of it below `place`, which must be short: two sessions as the daemon opens them, but with a CLI that ends at
    once, and the rest of the host."""
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(desk(place, [], kind=Echo))
        at.agent = with_settings(at.agent, host=_parts(at.host, place / "parts"))
        own, neighbour = [await opened(at, ThreadId(name)) for name in ("own", "neighbour")]
        for each in (own, neighbour):
            await at.workspaces.add(each, [("data.csv", b"name;x\n")])
        policy, other = [(await stack.enter_async_context(session(at, each)))._policy for each in (own, neighbour)]
        (place / "mailagent.toml").write_text(f'authserv_id = "mx.example.org" # {SECRET}\n')
        bubblewrap.write_etc(place / "etc")
        pid, told = await stack.enter_async_context(_daemon())
        targets = {
            **(_listeners(stack) | told),
            "secret": SECRET,
            "pid": pid,
            "dns": int((await stack.enter_async_context(name_server({}))).rpartition(":")[2]),
            "settings": str(place / "mailagent.toml"),
            "redis": str(place / "run" / "redis" / "redis.sock"),
            "neighbour": f"{neighbour.path}/in/data.csv",
            "workspace": own.path,
            "skills": policy.host.skills,
            "analysis": policy.host.analysis,
            "etc": str(place / "etc"),
            "cli": policy.host.cli,
            "bwrap": policy.host.bwrap,
            "model": policy.model_socket,
            "asked": at.model.url.removeprefix("http://").split(":"),
            "other_model": other.model_socket,
        }
        yield World(at, own, policy, targets, _kit(Path(own.path, "work", "kit")))


async def opened(at: Desk, thread: ThreadId) -> Workspace:
    """The thread's workspace."""
    return await at.open(thread)


def session(at: Desk, workspace: Workspace) -> AbstractAsyncContextManager[ClaudeSession]:
    """A session on this workspace, as the daemon opens it."""
    return at.agent.session(workspace, PAYER)


def with_settings(agent: ClaudeAgent, **changed: Any) -> ClaudeAgent:
    """The same agent with other settings."""
    other = copy(agent)
    other._settings = replace(agent._settings, **changed)
    return other


def _parts(real: Host, place: Path) -> Host:
    """The same parts, small and ours to write: what keeps them from being written is the sandbox alone."""
    (place / "analysis" / "bin").mkdir(parents=True)
    (place / "analysis" / "lib").mkdir()
    (place / "analysis" / "bin" / "python").symlink_to(Path(real.analysis, "bin", "python").resolve())
    shutil.copytree(real.skills, place / "skills")
    shutil.copy("/bin/false", place / "cli")
    ours = {name: str(place / name) for name in ("analysis", "skills", "cli")}
    return replace(real, font_cache="", **ours)


def _kit(place: Path) -> Path:
    """A copy of the attempts where a sandbox sees them."""
    package = place / "tests" / "fault" / "escapes"
    package.mkdir(parents=True)
    for name in ("attempt", *attempt.MODULES):
        shutil.copy(HERE / f"{name}.py", package)
    return place


def _listeners(stack: AsyncExitStack) -> dict[str, Any]:
    """Sockets that the host can connect to; whether anybody accepts does not matter."""
    tcp4 = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    name = f"{ABSTRACT}-{os.getpid()}"
    abstract.bind(f"\0{name}")
    abstract.listen()
    Path("/dev/shm", name).write_text(SECRET)
    stack.callback(Path("/dev/shm", name).unlink)
    return {"tcp4": tcp4.getsockname()[1], "abstract": name, "shm": name}


@asynccontextmanager
async def _daemon() -> AsyncIterator[tuple[int, dict[str, int]]]:
    """A process that holds the key, as the daemon does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", DAEMON),
        env={"ANTHROPIC_API_KEY": SECRET},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process.pid, json.loads(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()

"""The sandbox: bubblewrap under the policy's arguments, for the CLI through a launcher or for one script at once."""

import asyncio
import json
import os
import select
import shlex
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.core.policy import CLI, Policy, arguments

END_SECONDS = 20.0
MAX_PRINTED = 1 << 20

ETC = {
    "passwd": "agent:x:1000:1000::/home/agent:/bin/bash\n",
    "group": "agent:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program in the sandbox ended: its exit code and what it printed."""

    code: int
    output: str
    errors: str


def write_etc(directory: Path) -> None:
    """Make the /etc that sandboxes see."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in ETC.items():
        (directory / name).write_text(text)


class Inside:
    """The first process inside a sandbox, held by a handle: with it ends everything inside, whatever that has become.

    bubblewrap's own promise to die with its parent can be taken back by code inside, which runs as the same user."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._handle = -1

    def seize(self) -> None:
        """Take hold of it, as soon as it is there and before hostile code runs."""
        if self._handle >= 0:
            return
        with suppress(BlockingIOError, ProcessLookupError, ValueError, KeyError):
            report = json.loads(os.read(self._status, 4096).partition(b"\n")[0])
            self._handle = os.pidfd_open(report["child-pid"])

    async def end(self) -> None:
        """Kill it and wait until nothing inside lives any more."""
        self.seize()
        if self._handle >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            ended = select.poll()
            ended.register(self._handle, select.POLLIN)
            await asyncio.to_thread(ended.poll, END_SECONDS * 1000)
            os.close(self._handle)
            self._handle = -1
        if self._status >= 0:
            os.close(self._status)
            self._status = -1


def write_launcher(path: Path, policy: Policy) -> Inside:
    """Write the program that the SDK starts in place of the CLI: the same CLI, inside the sandbox; returns the hold on
    what it will start.

    The transcript directory has one path inside and outside, taken from the environment at each start: the SDK names
    another one on resume, and mirrors nothing when the two differ. bubblewrap itself starts without an environment: it
    stays as process 1 inside, where /proc/1/environ would show the daemon's."""
    status = path.with_name("status")
    os.mkfifo(status, 0o600)
    held = Inside(os.open(status, os.O_RDONLY | os.O_NONBLOCK))
    command = shlex.join([*arguments(policy), "--json-status-fd", "9"])
    directory = '--bind "$CLAUDE_CONFIG_DIR" "$CLAUDE_CONFIG_DIR" --setenv CLAUDE_CONFIG_DIR "$CLAUDE_CONFIG_DIR"'
    start = f'exec /usr/bin/env -i {command} {directory} --remount-ro / -- {CLI} "$@"'
    path.write_text(f"#!/bin/sh\nexec 9>{shlex.quote(str(status))}\n{start}\n")
    path.chmod(0o700)
    return held


async def run(policy: Policy, command: Sequence[str], *, timeout: float) -> Finished:
    """Run a program in a sandbox of its own to its end. TemporaryError after `timeout` seconds, and when it prints more
    than a program of ours would (it is killed)."""
    ours, theirs = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments(policy),
            *("--json-status-fd", str(theirs), "--remount-ro", "/", "--", *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={},
            pass_fds=(theirs,),
        )
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    os.set_blocking(ours, False)
    held = Inside(ours)
    try:
        async with asyncio.timeout(timeout):
            output, errors = await asyncio.gather(_capped(process.stdout), _capped(process.stderr))
            await process.wait()
    except TimeoutError as error:
        raise TemporaryError(f"{command[0]} took longer than {timeout:.0f} s in the sandbox") from error
    finally:
        await held.end()
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Finished(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))


async def _capped(stream: asyncio.StreamReader | None) -> bytes:
    text = bytearray()
    while stream and (chunk := await stream.read(65536)):
        text += chunk
        if len(text) > MAX_PRINTED:
            raise TemporaryError(f"a program in the sandbox printed more than {MAX_PRINTED} bytes")
    return bytes(text)


async def check(policy: Policy) -> None:
    """Start a real sandbox and look at its boundary from inside. ConfigError with the mend when it cannot be had."""
    probe = "test ! -w /proc/sys/kernel/core_pattern && test ! -e /root && test -e /etc/passwd && python3 -c pass"
    try:
        finished = await run(policy, ["/bin/sh", "-c", probe], timeout=30)
    except FileNotFoundError:
        raise ConfigError("bubblewrap is missing: apt-get install bubblewrap") from None
    if finished.code == 0:
        return
    reason = finished.errors.strip().splitlines()[-1:] or ["a probe inside it failed"]
    raise ConfigError(
        f"the sandbox cannot be had: {reason[0]}; where user namespaces are off: "
        "sysctl -w kernel.unprivileged_userns_clone=1 (and kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu)"
    )

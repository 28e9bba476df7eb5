"""The sandbox: bubblewrap under the policy's arguments, for the CLI through a launcher or for one script at once."""

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.core.policy import CLI, Policy, arguments

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


def write_launcher(path: Path, policy: Policy) -> None:
    """Write the program that the SDK starts in place of the CLI: the same CLI, inside the sandbox.

    The transcript directory has one path inside and outside, taken from the environment at each start: the SDK names
    another one on resume, and mirrors nothing when the two differ. bubblewrap itself starts without an environment: it
    stays as process 1 inside, where /proc/1/environ would show the daemon's."""
    command = shlex.join(arguments(policy))
    directory = '--bind "$CLAUDE_CONFIG_DIR" "$CLAUDE_CONFIG_DIR" --setenv CLAUDE_CONFIG_DIR "$CLAUDE_CONFIG_DIR"'
    path.write_text(f'#!/bin/sh\nexec /usr/bin/env -i {command} {directory} --remount-ro / -- {CLI} "$@"\n')
    path.chmod(0o700)


async def run(policy: Policy, command: Sequence[str], *, timeout: float) -> Finished:
    """Run a program in a sandbox of its own to its end; TemporaryError after `timeout` seconds (it is killed)."""
    process = await asyncio.create_subprocess_exec(
        *arguments(policy),
        "--remount-ro",
        "/",
        "--",
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    try:
        async with asyncio.timeout(timeout):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise TemporaryError(f"{command[0]} took longer than {timeout:.0f} s in the sandbox") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Finished(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))


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

"""Keeps adapters.sandbox: bubblewrap under the policy's arguments, for the CLI through a launcher or for one script."""

import asyncio
import json
import logging
import os
import select
import shlex
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from mailagent.adapters import seccomp, trees
from mailagent.adapters.cgroups import Group
from mailagent.adapters.endings import whole
from mailagent.adapters.sandbox import Finished
from mailagent.adapters.watch import TICK, Watch
from mailagent.core import gvisor
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.policy import CLI, LIMITED, Policy, arguments, bounds, control

log = logging.getLogger(__name__)

OWN = "own"
"""The CLI's own directory, beside the launcher."""
START_SECONDS = 10.0
SOON = 0.01
END_SECONDS = 20.0
MAX_PRINTED = 1 << 20

ETC = {
    "passwd": "agent:x:1000:1000::/home/agent:/bin/bash\n",
    "group": "agent:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "limited": """#!/bin/bash
# Runs a command of the agent, so that it fails or dies before the agent does, and gives way to everybody else.
(
    echo 1000 >/proc/self/oom_score_adj
    ulimit $TOOL_LIMITS
    exec nice -n 5 /bin/bash -c "$1"
)
code=$?
[ $code != 137 ] || echo "Killed: it took more memory or processor time than a command may have." >&2
exit $code
""",
}


def write_etc(directory: Path) -> None:
    """Make the /etc that a sandbox sees. Each has its own: gVisor's parts could write there, who gets out of it too."""
    directory.mkdir()
    for name, text in ETC.items():
        (directory / name).write_text(text)
    (directory / "limited").chmod(0o755)


class Inside:
    """The first process inside a sandbox, held by a handle: with it ends everything inside, whatever that has become.

    bubblewrap's own promise to die with its parent can be taken back by code inside, which runs as the same user. From
    its first moment the sandbox is watched, and ended when it takes more than its policy allows; `failure` says so."""

    def __init__(self, place: Path, policy: Policy) -> None:
        """`place` holds what the launcher needs; it must be there until the end."""
        self.failure: PermanentError | TemporaryError | None = None
        self.launcher = place / "launch"
        self._place = place
        self._policy = policy
        groups = policy.host.control_groups
        self._group = Group(Path(groups), place.name) if groups else None
        os.mkfifo(place / "status", 0o600)
        self._handle = self._namespace = -1
        self._watch = Watch(policy, str(place / OWN), killed=self._group.killed if self._group else None)

    def begin(self) -> None:
        """Wait for what the launcher starts, and watch it until end(). TemporaryError when there is no group for it."""
        if self._group:
            self._group.make(control(self._policy.limits))
        self._status = os.open(self._place / "status", os.O_RDONLY | os.O_NONBLOCK)
        self._watching = asyncio.create_task(self._keep_watching())

    def seize(self) -> None:
        """Take hold of it, as soon as it is there and before hostile code runs."""
        if self._handle >= 0:
            return
        with suppress(BlockingIOError, ProcessLookupError, FileNotFoundError, ValueError, KeyError):
            first = json.loads(os.read(self._status, 4096).partition(b"\n")[0])["child-pid"]
            self._handle = os.pidfd_open(first)
            self._namespace = os.open(f"/proc/{first}/ns/pid", os.O_RDONLY)
            self._watch.attach(self._namespace, first)

    async def there(self, launched: asyncio.subprocess.Process) -> None:
        """Wait for it, though not for long: bubblewrap that is killed just before it says which process is the first
        leaves that behind, waiting for its word."""
        end = time.monotonic() + START_SECONDS
        while self._handle < 0 and launched.returncode is None and time.monotonic() < end:
            self.seize()
            await asyncio.sleep(SOON)

    async def look(self, *, patient: bool = False) -> None:
        """Look once at what the sandbox uses; raises what it must end for."""
        self.seize()
        if not self.failure and (self._place / "too-much").exists():
            self.failure = TemporaryError("the agent's process says too much")
        if not self.failure:
            self.failure = await asyncio.to_thread(self._watch.look, patient=patient)
        if self.failure:
            raise self.failure

    async def end(self) -> None:
        """Kill it and wait until nothing inside lives any more; what a sandbox wrote that took too much goes."""
        self._watching.cancel()
        (ended,) = await asyncio.gather(self._watching, return_exceptions=True)
        self.seize()
        self._kill()
        if self._handle >= 0:
            gone = select.poll()
            gone.register(self._handle, select.POLLIN)
            await asyncio.to_thread(gone.poll, END_SECONDS * 1000)
        for descriptor in (self._handle, self._namespace, self._status):
            if descriptor >= 0:
                os.close(descriptor)
        self._handle = self._namespace = self._status = -1
        if self._group:
            await self._group.end()
            self._group = None
        if isinstance(self.failure, PermanentError):
            await clear(*(Path(self._policy.workspace, name) for name in ("work", "out")))
        if isinstance(ended, Exception):
            raise ended

    async def _keep_watching(self) -> None:
        try:
            while True:
                await self.look(patient=True)
                await asyncio.sleep(TICK)
        except (PermanentError, TemporaryError) as error:
            log.warning("a sandbox is ended: %s", error)
            while self._handle < 0:  # found wanting before it was there
                self.seize()
                await asyncio.sleep(TICK)
        finally:
            self._kill()

    def _kill(self) -> None:
        if self._handle >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def enter(self) -> list[str]:
        """The lines of the launcher that bring it under the limits that hold for all of the sandbox together."""
        return [self._group.enter()] if self._group else []


SAID = (
    f"cat | stdbuf -o0 head -c {64 << 20} | stdbuf -o0 head -n 20000; "
    '[ "${PIPESTATUS[0]}" = 0 ] || : >too-much'  # cat had more to say
)
"""Passes on what the CLI says, up to more than a hundred times what it says in a turn: the SDK begins a task for each
line that asks something, and code inside can write lines too."""
NOTED = f"stdbuf -o0 head -c {1 << 20} | stdbuf -o0 head -n 200 >&2"
"""Passes on what the CLI complains of, which goes to the log: what is more is lost."""


def launch(place: Path, policy: Policy, command: Sequence[str] = ()) -> Inside:
    """Write the program that starts this command in the sandbox, or, for the SDK to start in place of the CLI, the same
    CLI; returns the hold on what it will start.

    The CLI's directory has inside the path that the environment names at each start: the SDK names another one on
    resume, and mirrors nothing when the two differ. Outside it is moved to `place` first: the SDK would go through what
    is left there afterwards, and leave some of it. bubblewrap itself starts without an environment: it
    stays as process 1 inside, where /proc/1/environ would show the daemon's."""
    held = Inside(place, policy)
    here = shlex.quote(str(place))
    lines = ["#!/bin/bash -e", f"cd {here}"]
    if command:
        directory, program = "", shlex.join([LIMITED, shlex.join(command)])
    else:
        lines.append(f"exec > >({SAID}) 2> >({NOTED})")
        lines.append(f'mv -T "$CLAUDE_CONFIG_DIR" {OWN}')
        directory = f'--bind {here}/{OWN} "$CLAUDE_CONFIG_DIR" --setenv CLAUDE_CONFIG_DIR "$CLAUDE_CONFIG_DIR"'
        program = f'{CLI} "$@"'
    write_etc(place / "etc")
    sandbox = shlex.join([*arguments(policy, str(place / "etc")), "--json-status-fd", "9"])
    program = f"{shlex.join(bounds(policy))} {program}"
    start = _on_gvisor if policy.host.runsc else _on_this_kernel
    lines += [*held.enter(), "exec 9>status", *start(place, policy, sandbox, directory, program)]
    held.launcher.write_text("\n".join(lines) + "\n")
    held.launcher.chmod(0o700)
    held.begin()  # nothing is left to fail: on a full disk nobody would end it
    return held


def _on_this_kernel(place: Path, _: Policy, sandbox: str, directory: str, program: str) -> list[str]:
    (place / "filter").write_bytes(seccomp.program())
    return ["exec 8<filter", f"exec /usr/bin/env -i {sandbox} --seccomp 8 {directory} --remount-ro / -- {program}"]


def _on_gvisor(place: Path, policy: Policy, sandbox: str, directory: str, program: str) -> list[str]:
    """The directory of the CLI is put into the configuration at each start, for the reason above."""
    bundle = place / "bundle"
    bundle.mkdir()
    (bundle / "filter").write_bytes(seccomp.program())
    (place / "configuration").write_text(json.dumps(gvisor.bundle(policy, "DIRECTORY" if directory else "")))
    runsc = shlex.join([*gvisor.arguments(policy, str(bundle)), "--", *gvisor.command()])
    return [
        "text=$(<configuration)",
        r"""directory=${CLAUDE_CONFIG_DIR//\\/\\\\} directory=${directory//'"'/'\"'}""",  # as JSON has it
        'printf %s "${text//DIRECTORY/"$directory"}" >bundle/config.json',
        f"printf '%s\\0' {program} >bundle/words",
        f"exec /usr/bin/env -i {sandbox} {directory} {runsc}",
    ]


async def run(
    policy: Policy, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] = MappingProxyType({})
) -> Finished:
    """Run a program in a sandbox of its own to its end. TemporaryError after `timeout` seconds, and when it prints more
    than a program of ours would (it is killed); PermanentError when it takes more than the policy allows."""
    place = Path(tempfile.mkdtemp(prefix="program-"))
    held = starting = None
    try:
        held = launch(place, policy, command)
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                held.launcher,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
            )
        )
        process = await asyncio.shield(starting)  # cancelled half-way, it would be nobody's
        async with asyncio.timeout(timeout):
            output, errors = await asyncio.gather(_capped(process.stdout), _capped(process.stderr))
            await process.wait()
        await held.look()
    except TimeoutError as error:
        raise TemporaryError(f"{command[0]} took longer than {timeout:.0f} s in the sandbox") from error
    finally:
        await whole(_over(place, held, starting))
    return Finished(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))


async def _over(
    place: Path, held: Inside | None, starting: "asyncio.Future[asyncio.subprocess.Process] | None"
) -> None:
    if starting:
        await asyncio.wait({starting})
    process = starting.result() if starting and not starting.exception() else None
    try:
        if held and process:
            await held.there(process)
        if held:
            await held.end()
    finally:
        if process and process.returncode is None:
            process.kill()
            await process.wait()
        await clear(place)


async def clear(*paths: Path) -> None:
    """Remove what code in a sandbox wrote; what cannot be removed is told in the log."""
    for path in paths:
        try:
            await asyncio.to_thread(trees.remove, path)
        except OSError as error:
            log.warning("%s stays: %s", path, error)


async def _capped(stream: asyncio.StreamReader | None) -> bytes:
    text = bytearray()
    while stream and (chunk := await stream.read(65536)):
        text += chunk
        if len(text) > MAX_PRINTED:
            raise TemporaryError(f"a program in the sandbox printed more than {MAX_PRINTED} bytes")
    return bytes(text)

"""The boundary, tried at each start: a real sandbox in which a script does what must not work."""

import json
import secrets
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mailagent.adapters import bubblewrap
from mailagent.core.errors import ConfigError, PermanentError
from mailagent.core.policy import ANALYSIS, Policy

SECONDS = 30.0

ATTEMPTS = {
    "read a file of the host": "open(secret_file).read()",
    "read the environment of the daemon": "next(p for p in processes if mark in text(f'/proc/{p}/environ'))",
    "connect to a port of the host": "socket.create_connection(('127.0.0.1', port), 1)",
    "connect to an abstract socket of the host": "socket.socket(socket.AF_UNIX).connect(chr(0) + mark)",
    "see a network": "next(name for _, name in socket.if_nameindex() if name != 'lo')",
    "open a socket to the hypervisor": "socket.socket(40)",  # AF_VSOCK: not bound to a network namespace
    "make a user namespace": "succeeds(libc.unshare(0x10000000))",
    "trace a process": "succeeds(libc.ptrace(0, 0, 0, 0))",
    "gain root": "(os.setuid(0), os.setgroups([]))",  # its number alone means nothing
    "raise its limits": "resource.setrlimit(7, [resource.getrlimit(7)[1] + 1] * 2)",  # RLIMIT_NOFILE
    "change settings of the kernel": "open('/proc/sys/kernel/core_pattern', 'a')",
    "write to the system": "open('/usr/' + mark, 'x')",
    "write beside the workspace": "open('/' + mark, 'x')",
    "write among the attachments": "open('/srv/in/' + mark, 'x')",
}
"""What is tried -> Python that ends without an exception when it works."""

SCRIPT = """
import ctypes, json, os, resource, socket, sys
attempts, known = json.loads(sys.argv[1])
libc = ctypes.CDLL(None)
def succeeds(result):
    if result != 0:
        raise OSError
def text(path):
    try:
        return open(path, errors="replace").read()
    except OSError:
        return ""
known.update(globals(), processes=[name for name in os.listdir("/proc") if name.isdigit()])
for name, code in attempts.items():
    try:
        exec(code, known)
    except Exception:
        continue
    print("worked:", name)
print("all tried")
"""


async def check(policy: Policy) -> Sequence[str]:
    """Try all of it in a real sandbox; returns what was tried. ConfigError when something works, and when no sandbox
    can be had; TemporaryError when that may be better in a moment: the disk is full, the machine busy."""
    with bait() as known:
        command = script(known)
        try:
            finished = await bubblewrap.run(
                policy, command, timeout=SECONDS, environment={"SECRET": str(known["mark"])}
            )
        except PermanentError as error:
            raise ConfigError(f"the sandbox cannot be had: {error}") from error
    if finished.code == 127:
        raise ConfigError("bubblewrap is missing: apt-get install bubblewrap")
    worked = [line.partition(": ")[2] for line in finished.output.splitlines() if line.startswith("worked:")]
    if worked:
        raise ConfigError(
            f"the sandbox does not hold: code inside could {', '.join(worked)}. Do not run mailagent here"
        )
    if "all tried" not in finished.output:
        reason = finished.errors.strip().splitlines()[-1:] or ["a script inside it failed"]
        raise ConfigError(
            f"the sandbox cannot be had: {reason[0]}; where user namespaces are off: "
            "sysctl -w kernel.unprivileged_userns_clone=1 "
            "(and kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu)"
        )
    return tuple(ATTEMPTS)


def script(known: dict[str, str | int]) -> list[str]:
    """The command that tries everything with this knowledge of the host."""
    return [f"{ANALYSIS}/bin/python", "-I", "-S", "-c", SCRIPT, json.dumps([ATTEMPTS, known])]


@contextmanager
def bait() -> Iterator[dict[str, str | int]]:
    """A file, a port and an abstract socket on this host, all of which code outside a sandbox reaches."""
    mark = f"mailagent-{secrets.token_hex(8)}"
    with (
        tempfile.NamedTemporaryFile() as file,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind(f"\0{mark}")
        abstract.listen()
        yield {"mark": mark, "secret_file": file.name, "port": server.getsockname()[1]}

"""The same sandbox with gVisor's kernel between the code in it and this host's: runsc runs inside bubblewrap, on the
tree that core/policy.py lays out.

What gets out of gVisor sees no more than that tree, and no network."""

from collections.abc import Mapping
from typing import Any

from mailagent.core.policy import ANALYSIS, HOME, SHM, TMP, WORKSPACE, Policy, environment

RUNSC = "/opt/gvisor/runsc"
STATE = "/opt/gvisor/state"
BUNDLE = "/opt/gvisor/bundle"
"""A directory with config.json, and what START needs: `filter`, and `words`, the command with a NUL after each word."""

START = f"""
import ctypes, os
class Program(ctypes.Structure):
    _fields_ = [("steps", ctypes.c_ushort), ("code", ctypes.c_char_p)]
words = open("{BUNDLE}/words", "rb").read().split(bytes(1))[:-1]
code = open("{BUNDLE}/filter", "rb").read()
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, code))) == 0
os.execvp(words[0], words)
"""
"""Goes on as the command, under the filter of system calls; for prctl(2), PR_SET_NO_NEW_PRIVS and PR_SET_SECCOMP."""


def arguments(policy: Policy, bundle: str) -> list[str]:
    """What is added to bubblewrap's arguments, up to the command. The directories of runsc's own are not for the code
    that it runs: the bundle says nothing that this may not know, and another file system lies over the rest."""
    return ["--ro-bind", policy.host.runsc, RUNSC, "--ro-bind", bundle, BUNDLE, "--tmpfs", STATE, "--remount-ro", "/"]


def command() -> list[str]:
    """The command that bubblewrap starts: one container, without a network, that may connect to the model's socket."""
    options = ["--rootless", "--ignore-cgroups", "--network=none", "--platform=ptrace", "--host-uds=open"]
    return [RUNSC, f"--root={STATE}", *options, "run", f"--bundle={BUNDLE}", "agent"]


def bundle(policy: Policy, directory: str) -> Mapping[str, Any]:
    """The container's configuration (OCI runtime specification 1.0, config.md): bubblewrap's tree read-only, and of it
    the places that may be written; `directory` is the CLI's own, "" for none.

    The user is root without any capability: bubblewrap's tree belongs to the one user that there is."""
    variables = {**environment(policy), "IS_SANDBOX": "1", **({"CLAUDE_CONFIG_DIR": directory} if directory else {})}
    written = [TMP, SHM, HOME, f"{WORKSPACE}/work", f"{WORKSPACE}/out", *([directory] if directory else [])]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": [f"{ANALYSIS}/bin/python", "-I", "-S", "-c", START],
            "env": [f"{name}={value}" for name, value in variables.items()],
            "cwd": WORKSPACE,
            "noNewPrivileges": True,
        },
        "root": {"path": "/", "readonly": True},
        "hostname": "sandbox",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            *({"destination": path, "type": "bind", "source": path, "options": ["rw"]} for path in written),
            *({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["ro"]} for path in (STATE, "/sys")),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }

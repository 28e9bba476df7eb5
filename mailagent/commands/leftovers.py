"""What crashed sessions left on this host: processes, sockets and directories that no daemon has.

Control groups are not looked for: they go with the unit that they are in (systemd.resource-control(5), Delegate=)."""

import fcntl
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mailagent.adapters import processes
from mailagent.adapters.processes import PROC
from mailagent.config import Config


def leftovers(config: Config) -> list[str]:
    """A line each. While a daemon runs here, what is younger than a turn can be is a session's; afterwards nothing is.
    PermissionError when the directories are not ours to look into."""
    state, runtime, agent = Path(config.storage.state_dir), Path(config.storage.runtime_dir), config.agent
    runs = _runs(state)
    before = time.time() - (agent.turn_seconds + agent.drain_seconds) if runs else time.time()
    places = [*(state / "tmp").glob("*"), *runtime.glob("*.sock")]
    found = [f"{path} is of no session; the next start of the daemon removes it" for path in _old(places, before)]
    if not runs:
        found += [f"process {pid} runs in a sandbox, and no daemon does: kill -9 {pid}" for pid in _sandboxed(state)]
    return found


def _runs(state: Path) -> bool:
    """Whether a daemon has the state directory."""
    with suppress(FileNotFoundError), (state / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _old(paths: list[Path], before: float) -> Iterator[Path]:
    for path in paths:
        with suppress(FileNotFoundError):
            if path.lstat().st_mtime < before:
                yield path


def _sandboxed(state: Path) -> Iterator[int]:
    """First processes of sandboxes that show a workspace of ours: by what is mounted there, since code inside can give
    its process 1 any command line."""
    mark = f" {_in_file_system(state)}/threads/"
    for entry in PROC.iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and _is_first(int(entry.name)) and _mounted(entry, mark):
                yield int(entry.name)


def _is_first(process: int) -> bool:
    """Whether it is number 1 where it runs: with it all others there end (pid_namespaces(7))."""
    return processes.status(process, "NSpid") == 1


def _mounted(process: Path, mark: str) -> bool:
    """By any of its threads: the first may have ended, and then tells nothing."""
    for thread in (process / "task").iterdir():
        with suppress(OSError):
            if any(mark in line for line in processes.lines(thread / "mountinfo")):
                return True
    return False


def _in_file_system(directory: Path) -> str:
    """Its device and its path on that, as mounts of what lies in it are listed elsewhere (proc_pid_mountinfo(5))."""
    path = re.sub(r"[ \t\n\\]", lambda char: f"\\{ord(char[0]):03o}", str(directory.resolve()))
    found, longest = "", -1
    for line in processes.lines(PROC / "self" / "mountinfo"):
        device, root, point = (part.rstrip("/") for part in line.split(" ")[2:5])
        if f"{path}/".startswith(f"{point}/") and len(point) >= longest:
            found, longest = f"{device} {root}{path[len(point) :]}", len(point)
    return found

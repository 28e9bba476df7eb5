"""What fsck finds of sessions whose daemon is gone."""

import asyncio
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mailagent import config, daemon
from mailagent.adapters import bubblewrap
from mailagent.commands.leftovers import leftovers
from mailagent.core.errors import ConfigError
from mailagent.core.policy import ANALYSIS, arguments
from tests.sandboxes import policy_at
from tests.settings import settings_text

HIDE = """
import time
first, last = map(int, open("/proc/1/stat").read().rpartition(")")[2].split()[45:47])
with open("/proc/1/mem", "r+b", buffering=0) as memory:
    memory.seek(first)
    memory.write(b"kworker/0:1".ljust(last - first, b"\\0"))
print("hidden", flush=True)
time.sleep(60)
"""
"""Writes over the command line of process 1 (proc_pid_cmdline(5))."""


LEAVE = """
import ctypes, threading, time
def last():
    while not open("/proc/1/stat").read().rpartition(")")[2].startswith(" Z"): time.sleep(0.01)
    print("hidden", flush=True)
    time.sleep(60)
threading.Thread(target=last).start()
ctypes.CDLL(None).syscall(60, 0)
"""
"""Ends the first thread of process 1, by exit(2): nothing is told then of what the process sees."""


@pytest.mark.parametrize("name", ["state", "a state"])
@pytest.mark.parametrize(("script", "more"), [(HIDE, []), (LEAVE, ["--as-pid-1"])], ids=["renamed", "headless"])
async def test_a_sandbox_is_found_whatever_it_calls_itself(
    short_path: Path, name: str, script: str, more: list[str]
) -> None:
    state = short_path / name
    text = settings_text(short_path, model_url="http://127.0.0.1:1").replace(f"{short_path}/state", str(state))
    settings = config.load(text, {"MAILAGENT_IMAP_PASSWORD": "x"}, {})
    policy = policy_at(state / "threads" / "t")
    assert leftovers(settings) == []
    bubblewrap.write_etc(short_path / "etc")
    start = [*arguments(policy, str(short_path / "etc")), *more, "--remount-ro", "/", "--"]
    outside = await asyncio.create_subprocess_exec(
        *start, f"{ANALYSIS}/bin/python", "-I", "-c", script, stdout=asyncio.subprocess.PIPE, env={}
    )
    try:
        assert outside.stdout
        assert await outside.stdout.readline() == b"hidden\n"
        [found] = leftovers(settings)
        pid = int(found.rpartition(" ")[2])
        assert not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"bwrap")
    finally:
        outside.kill()
        await outside.wait()


def test_a_start_waits_for_one_who_only_looks_and_for_no_other_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(daemon, "LOCK_SECONDS", 60.0)
        letting_go = threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        letting_go.start()
        with daemon.alone(path):
            letting_go.join()
            monkeypatch.setattr(daemon, "LOCK_SECONDS", 0.2)
            with pytest.raises(ConfigError, match="another mailagent"), daemon.alone(path):
                pass


def test_what_is_mounted_on_this_host_may_have_any_name(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff \xe2\x80\xa8\x85\x0c 0 0\n1 2 3 4 5 - cgroup2 cgroup2"
    Path(os.fsdecode(odd)).mkdir()
    look = "; ".join(
        (
            "from pathlib import Path",
            "from mailagent.adapters import cgroups, processes",
            "from mailagent.commands import leftovers",
            "processes.lines(Path('/proc/self/mountinfo'))[-1].index('cgroup2')",
            "print(cgroups.delegated(), list(leftovers._sandboxed(Path('/nowhere'))))",
        )
    )
    command = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", os.fsdecode(odd), sys.executable, "-c", look]
    finished = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (finished.stdout, finished.stderr) == (b"None []\n", b"")

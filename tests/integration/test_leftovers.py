"""What fsck finds of sessions whose daemon is gone."""

import asyncio
from pathlib import Path

import pytest

from mailagent import config
from mailagent.adapters import bubblewrap
from mailagent.commands.leftovers import leftovers
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


@pytest.mark.parametrize("name", ["state", "a state"])
async def test_a_sandbox_is_found_whatever_it_calls_itself(short_path: Path, name: str) -> None:
    state = short_path / name
    text = settings_text(short_path, model_url="http://127.0.0.1:1").replace(f"{short_path}/state", str(state))
    settings = config.load(text, {"MAILAGENT_IMAP_PASSWORD": "x"}, {})
    policy = policy_at(state / "threads" / "t")
    assert leftovers(settings) == []
    bubblewrap.write_etc(short_path / "etc")
    command = [
        *arguments(policy, str(short_path / "etc")),
        "--remount-ro",
        "/",
        "--",
        f"{ANALYSIS}/bin/python",
        "-I",
        "-c",
        HIDE,
    ]
    outside = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env={})
    try:
        assert outside.stdout
        assert await outside.stdout.readline() == b"hidden\n"
        [found] = leftovers(settings)
        pid = int(found.rpartition(" ")[2])
        assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"kworker")
    finally:
        outside.kill()
        await outside.wait()

"""The attempts at each start: all refused inside, most of them possible outside, and a hole is found."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mailagent.adapters import boundary, bubblewrap, watch
from mailagent.core.errors import ConfigError, TemporaryError
from tests.sandboxes import lax_bubblewrap, policy_at

POSSIBLE_OUTSIDE = {
    "read a file of the host",
    "read the environment of the daemon",
    "connect to a port of the host",
    "connect to an abstract socket of the host",
    "make a user namespace",
    "trace a process",
}
"""Whatever the machine, and without privileges."""


async def test_all_attempts_are_refused(short_path: Path) -> None:
    assert set(await boundary.check(policy_at(short_path))) == set(boundary.ATTEMPTS)


async def test_without_a_sandbox_they_work() -> None:
    with boundary.bait() as known:
        command = [sys.executable, *boundary.script(known)[1:]]
        environment = {**os.environ, "SECRET": str(known["mark"])}
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
        output, _ = await process.communicate()
    worked = {line.partition(": ")[2] for line in output.decode().splitlines()}
    assert worked >= POSSIBLE_OUTSIDE


@pytest.mark.parametrize(
    ("forgotten", "hole"),
    [
        (["--unshare-all -> --unshare-pid --unshare-uts"], "connect to a port of the host"),
        (["--unshare-all -> --unshare-pid --unshare-uts"], "connect to an abstract socket of the host"),
        (["--seccomp 8"], "trace a process"),
        (["--seccomp 8", "--disable-userns"], "make a user namespace"),
        (["--remount-ro /"], "write beside the workspace"),
    ],
)
async def test_a_sandbox_with_a_hole_is_not_served_from(short_path: Path, forgotten: list[str], hole: str) -> None:
    policy, lax = policy_at(short_path), lax_bubblewrap(short_path, forgotten)
    with pytest.raises(ConfigError, match=hole):
        await boundary.check(replace(policy, host=replace(policy.host, bwrap=lax)))


async def test_what_may_be_better_in_a_moment_is_tried_again(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that ends with a fault of its settings is not started again."""
    monkeypatch.setattr(watch, "_free", lambda _: 0)
    with pytest.raises(TemporaryError, match="the disk is nearly full"):
        await boundary.check(policy_at(short_path))


async def test_a_launch_that_fails_leaves_nothing_at_work(short_path: Path) -> None:
    (short_path / "launch").mkdir()  # where the launcher is to be written
    before = asyncio.all_tasks(), sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        bubblewrap.launch(short_path, policy_at(short_path))
    assert (asyncio.all_tasks(), sorted(os.listdir("/proc/self/fd"))) == before


async def test_what_is_missing_is_said(short_path: Path) -> None:
    policy = policy_at(short_path)
    with pytest.raises(ConfigError, match="apt-get install bubblewrap"):
        await boundary.check(replace(policy, host=replace(policy.host, bwrap="/nowhere/bwrap")))
    with pytest.raises(ConfigError, match="cannot be had"):
        await boundary.check(replace(policy, host=replace(policy.host, analysis="/nowhere")))

"""Control groups, where this process was handed a subtree: `systemd-run --user --scope -p Delegate=yes make test`."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailagent.adapters import bubblewrap, cgroups
from mailagent.adapters.sandbox import Finished
from mailagent.core.errors import TemporaryError
from mailagent.core.policy import Policy, control
from tests.sandboxes import policy_at

ROOT = cgroups.delegated()
HERE = pytest.mark.skipif(
    ROOT is None, reason="no control groups (cgroup v2 with memory and pids) were delegated to us"
)

SMALL = {"memory_mb": 200, "tmp_mb": 20, "home_mb": 10, "processes": 100}
HOG = "python3 -c 'room = bytearray(50 << 20); import time; time.sleep(2)'"
HOGS = f"for n in 1 2 3 4 5 6 7 8; do {HOG} & done; wait; echo out"
BOMB = """python3 -c '
import os, time
try:
    while True: os.fork() or time.sleep(9)
except OSError as error: print(error)
'"""


@pytest.fixture
def policy(short_path: Path) -> Policy:
    made = policy_at(short_path, **SMALL)
    return replace(made, host=replace(made.host, control_groups=str(ROOT)))


async def shell(policy: Policy, script: str) -> Finished:
    return await bubblewrap.run(policy, ["/bin/bash", "-c", script], timeout=100)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    yield
    assert ROOT is None or [path.name for path in ROOT.iterdir() if path.is_dir()] == [cgroups.OURS]


@HERE
async def test_the_kernel_kills_the_commands_and_not_who_started_them(policy: Policy) -> None:
    finished = await shell(policy, HOGS)
    assert finished.output == "out\n", finished.errors


@HERE
async def test_the_limits_are_those_of_the_policy(policy: Policy) -> None:
    assert ROOT is not None
    group = cgroups.Group(ROOT, "looked-at")
    group.make(control(policy.limits))
    found = {name: (group.path / name).read_text().strip() for name in control(policy.limits)}
    await group.end()
    assert found == control(policy.limits)


@HERE
async def test_a_fork_bomb_ends_at_the_number_of_processes(policy: Policy) -> None:
    finished = await shell(policy, f"{BOMB} | head -1")
    assert finished.output == "[Errno 11] Resource temporarily unavailable\n"


@HERE
async def test_what_is_in_it_ends_at_one_blow(policy: Policy) -> None:
    assert ROOT is not None
    group = cgroups.Group(ROOT, "ended")
    group.make({})
    script = f"{group.enter()}; sleep 1000 & sleep 1000 & echo there; wait"
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    await group.end()
    assert await process.wait() == -9
    assert not group.path.exists()


@HERE
def test_we_are_out_of_the_way() -> None:
    assert Path("/proc/self/cgroup").read_text().strip().endswith(f"/{cgroups.OURS}")
    assert cgroups.delegated() == ROOT, "a second start finds the same"


def test_what_nobody_handed_over_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroups, "_own", lambda: tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    assert cgroups.delegated() is None
    assert [path.name for path in tmp_path.iterdir()] == ["cgroup.controllers"]


def test_a_launch_that_fails_leaves_no_group(short_path: Path) -> None:
    (groups := short_path / "groups").mkdir()
    (short_path / "launch").mkdir()  # where the launcher is to be written
    policy = policy_at(short_path)
    with pytest.raises(IsADirectoryError):
        bubblewrap.launch(short_path, replace(policy, host=replace(policy.host, control_groups=str(groups))))
    assert list(groups.iterdir()) == []


def test_a_group_that_cannot_be_set_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()  # what cannot be written
    with pytest.raises(TemporaryError, match="no control group"):
        cgroups.Group(tmp_path, "one").make({"../busy": "1"})
    assert [path.name for path in tmp_path.iterdir()] == ["busy"]


async def test_a_group_that_is_gone_has_ended(tmp_path: Path) -> None:
    await cgroups.Group(tmp_path, "gone").end()


async def test_a_group_that_cannot_be_emptied_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cgroups, "END_SECONDS", 0.05)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    await cgroups.Group(tmp_path, "one").end()
    assert (tmp_path / "one" / "cgroup.kill").read_text() == "1"
    assert "cannot be killed" in caplog.text
    assert cgroups.Group(tmp_path, "gone").killed() == 0


def test_a_process_that_ends_meanwhile_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> int:
        raise ProcessLookupError

    (tmp_path / "cgroup.procs").write_text("4711\n")
    monkeypatch.setattr(Path, "write_text", gone)
    cgroups._make_room(tmp_path)

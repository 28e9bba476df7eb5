"""The sandbox with gVisor in it: the same conversations, attempts and excesses. `GVISOR=all` tries all of them.

Its kernel is another one: what is refused there is refused in other words, and some things that are the host's
elsewhere are its own. Nothing of the host's may be reached, and nobody else harmed."""

import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from mailagent.adapters import boundary, host
from mailagent.adapters.watch import TOO_MUCH_DISK, TOO_MUCH_MEMORY
from mailagent.config import Config
from mailagent.core.policy import Host
from tests.fault.escapes import answers, planted, tools
from tests.fault.escapes.attempt import PASSED, every
from tests.fault.escapes.world import session, world
from tests.fault.limits.rows import ROWS, Row, tried
from tests.integration.test_session import bash, desk, results, text
from tests.sandboxes import policy_at

pytestmark = [
    pytest.mark.skipif(not shutil.which("runsc"), reason="gVisor is not installed: apt-get install runsc"),
    pytest.mark.timeout(300),
]

EVERYTHING = os.environ.get("GVISOR") == "all"
OF_ITS_OWN = {"devices_in_sys", "file_in_dev", "memory_shared_by_a_device"}
"""gVisor's own /sys and /dev, which nobody else sees."""
USUAL = ("memory: put away where it cannot be read", "memory: many small processes", "work/: many files")
CHOSEN = [row for row in ROWS if EVERYTHING or row.name in USUAL]


@pytest.fixture(autouse=True)
def gvisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sandbox of the test has gVisor in it, as with this setting."""
    plain = host.parts

    def parts(config: Config) -> Host:
        sandbox = config.sandbox.model_copy(update={"backend": "gvisor"})
        return plain(config.model_copy(update={"sandbox": sandbox}))

    monkeypatch.setattr(host, "parts", parts)


async def test_the_boundary_holds(short_path: Path) -> None:
    assert set(await boundary.check(policy_at(short_path))) == set(boundary.ATTEMPTS)


async def test_a_conversation_goes_on_where_it_stood(short_path: Path) -> None:
    total = """python3 -c 'import pandas; print("sum", pandas.read_csv("in/data.csv").x.sum())' | tee work/total"""
    replay = [bash(f"{total}; cat /proc/version"), text("first"), bash("cat work/total"), text("second")]
    async with desk(short_path, replay) as at:
        workspace = await at.open()
        await at.workspaces.add(workspace, [("data.csv", b"x\n1\n41\n")])
        async with session(at, workspace) as profiling:
            assert (await profiling.profile()).tables == ("data",)
        assert (await at.turn("What is the sum?")).answer == "first"
        assert "sum 42" in results(at.model.requests[1][1])
        assert "Linux version 4.4.0" in results(at.model.requests[1][1])  # gVisor's, whatever the host's is
        await at.workspaces.snapshot(await at.open())
        shutil.rmtree(short_path / "threads")
        assert (await at.turn("And again?", 2)).answer == "second"
        assert "What is the sum?" in at.seen(3)
        assert "sum 42" in results(at.model.requests[3][1]).rpartition("And again?")[2]
    assert _left(short_path) == []


async def test_a_directory_may_have_any_name(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = short_path / 'a"b\\c&d e'
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    async with desk(short_path, [text("first"), text("second")]) as at:
        assert (await at.turn("hello")).answer == "first"
        assert (await at.turn("and again", 2)).answer == "second"


async def test_code_gets_nowhere(short_path: Path) -> None:
    names = [name for name, attempt in every().items() if attempt.without != "terminal"]
    async with world(short_path) as at:
        told = await at.inside(names)
    assert len(names) > 100
    assert {name for name, end in told.items() if end.startswith(PASSED)} <= OF_ITS_OWN


@pytest.mark.skipif(not EVERYTHING, reason="make sandbox does")
async def test_tools_and_what_is_left_get_nowhere(short_path: Path) -> None:
    for name in ("tools", "planted", "answers"):
        (short_path / name).mkdir()
    ends = await tools.by_tools(short_path / "tools", weak=False)
    ends |= await planted.left(short_path / "planted", weak=False)
    async with world(short_path / "answers") as at:
        ends |= (await answers.collected(at))[0]
    assert {name: end for name, end in ends.items() if end.startswith(PASSED)} == {}


@pytest.mark.parametrize("row", CHOSEN, ids=[row.name for row in CHOSEN])
async def test_who_takes_too_much_harms_nobody_else(row: Row) -> None:
    """Where gVisor does not keep a limit by itself, the turn ends where elsewhere it goes on, or nothing is missed."""
    seen = await tried(row)
    assert seen.ended in ("", TOO_MUCH_DISK, TOO_MUCH_MEMORY)
    assert seen.ended or re.search(row.sees, seen.told) or not row.name.startswith("memory")
    assert replace(seen, ended=TOO_MUCH_DISK).fault(replace(row, ends=TOO_MUCH_DISK)) == ""


def _left(place: Path) -> list[str]:
    """Command lines of the sandboxes that live on of this place."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "bwrap" in line and str(place) in line:
            found.append(line)
    return found

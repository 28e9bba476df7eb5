"""What ports.Workspaces promises, with the tricks that code in a sandbox may play on it."""

import asyncio
import mmap
import os
import shutil
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

import pytest

from mailagent.adapters import snapshots, trees, workspaces
from mailagent.adapters.blobs import DiskBlobs
from mailagent.adapters.workspaces import DiskWorkspaces
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import BlobId, OutFile, ThreadId
from mailagent.ports import Workspace
from tests.fakes.checkpoints import FakeCheckpoints

THREAD = ThreadId("thread")
ROOM = 100_000
P = ParamSpec("P")
T = TypeVar("T")


@pytest.fixture
def spaces(tmp_path: Path) -> DiskWorkspaces:
    blobs = DiskBlobs(tmp_path / "blobs")
    return DiskWorkspaces(
        tmp_path / "threads", blobs, FakeCheckpoints(), max_bytes=ROOM, max_out_bytes=1000, max_out_files=3
    )


async def test_attachments_are_kept_apart_and_written_once(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD, "token")
    files = [("a.csv", b"1"), ("a.csv", b"2"), ("plain", b"3"), ("plain", b"4"), (".env", b"5")]
    names = await spaces.add(workspace, files)
    assert names == ["a.csv", "a (2).csv", "plain", "plain (2)", ".env"]
    assert await spaces.add(workspace, files) == names, "a turn that is tried again adds nothing"
    inside = Path(workspace.path) / "in"
    assert {path.name: path.read_bytes() for path in inside.iterdir()} == dict(
        zip(names, [b"1", b"2", b"3", b"4", b"5"], strict=True)
    )


async def test_each_turn_starts_with_an_empty_out_and_keeps_the_earlier_ones(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD, "token")
    out, work = Path(workspace.path) / "out", Path(workspace.path) / "work"
    for turn in (1, 2, 3):
        await spaces.clear_out(workspace, turn)
        assert list(out.iterdir()) == []
        (out / "answer.md").write_text(f"turn {turn}")
    assert (work / "earlier/1/answer.md").read_text() == "turn 1"
    assert (work / "earlier/2/answer.md").read_text() == "turn 2"


async def test_a_turn_that_is_tried_again_finds_what_its_first_attempt_made(spaces: DiskWorkspaces) -> None:
    """Its transcript says that it made it."""
    workspace = await spaces.open(THREAD, "token")
    await spaces.clear_out(workspace, 1)
    out = Path(workspace.path) / "out"
    (out / "answer.md").write_text("turn 1")
    await spaces.clear_out(workspace, 2)
    (out / "answer.md").write_text("half of turn 2")
    for _ in range(2):
        workspace = await spaces.open(THREAD, "token")
        await spaces.clear_out(workspace, 2)
        assert (out / "answer.md").read_text() == "half of turn 2"
        assert (Path(workspace.path) / "work/earlier/1/answer.md").read_text() == "turn 1"


async def test_a_link_in_place_of_earlier_leads_nowhere(spaces: DiskWorkspaces, tmp_path: Path) -> None:
    workspace = await spaces.open(THREAD, "token")
    await spaces.clear_out(workspace, 1)
    victim = tmp_path / "victim"
    victim.mkdir()
    (Path(workspace.path) / "work/earlier").symlink_to(victim)
    (Path(workspace.path) / "out/answer.md").write_text("turn 1")
    await spaces.clear_out(workspace, 2)
    assert list(victim.iterdir()) == []
    assert (Path(workspace.path) / "work/earlier/1/answer.md").read_text() == "turn 1"


async def test_only_plain_files_of_out_are_collected(spaces: DiskWorkspaces, tmp_path: Path) -> None:
    workspace = await spaces.open(THREAD, "token")
    out = Path(workspace.path) / "out"
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (out / "charts").mkdir()
    (out / "charts/x.png").write_bytes(b"png")
    (out / "link").symlink_to(secret)
    (out / "directory").symlink_to(tmp_path)
    os.link(secret, out / "hard")
    os.mkfifo(out / "pipe")
    (out / "closed").write_text("x")
    (out / "closed").chmod(0)
    assert await spaces.collect(workspace) == (OutFile("charts/x.png", b"png"),)


async def test_an_answer_too_large_or_of_too_many_files_is_refused(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD, "token")
    out = Path(workspace.path) / "out"
    (out / "large").write_bytes(b"x" * 1001)
    with pytest.raises(PermanentError):
        await spaces.collect(workspace)
    (out / "large").unlink()
    for number in range(4):
        (out / f"{number}").write_bytes(b"")
    with pytest.raises(PermanentError):
        await spaces.collect(workspace)


async def test_nothing_that_code_left_there_ends_a_thread(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD, "token")
    await spaces.clear_out(workspace, 1)
    root = Path(workspace.path)
    for part in ("work", "out"):
        (root / part / "kept.txt").write_text("kept")
        Path(os.fsdecode(os.fsencode(root / part) + b"/caf\xe9.csv")).write_text("x")
        deep = root / part
        for _ in range(300):
            deep = deep / "d"
            deep.mkdir()
        with (root / part / "sparse").open("wb") as sparse:
            sparse.truncate(50 * 1024**3)
    (root / "out" / "sparse").unlink()
    (root / "out" / "locked").mkdir(mode=0)
    await spaces.snapshot(workspace)
    assert [file.path for file in await spaces.collect(workspace)] == ["kept.txt"]
    (root / "work/earlier").mkdir(mode=0o500)
    (root / "out").chmod(0)
    root.chmod(0)
    workspace = await spaces.open(THREAD, "token")
    await spaces.clear_out(workspace, 2)
    await spaces.clear_out(workspace, 2)
    assert list((root / "out").iterdir()) == []
    assert (root / "work/earlier/1/kept.txt").read_text() == "kept"


async def test_links_in_place_of_the_workspace_s_parts_are_taken_away(spaces: DiskWorkspaces, tmp_path: Path) -> None:
    workspace = await spaces.open(THREAD, "token")
    root = Path(workspace.path)
    victim = tmp_path / "victim"
    victim.mkdir()
    (root / "work").rmdir()
    (root / "work").symlink_to(victim)
    await spaces.open(THREAD, "token")
    assert (root / "work").is_dir()
    assert not (root / "work").is_symlink()


async def test_a_lost_workspace_is_restored_as_it_was(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD, "token")
    await spaces.add(workspace, [("a.csv", b"a;b")])
    root = Path(workspace.path)
    (root / "work/empty").mkdir(mode=0o750)
    (root / "work/tables").mkdir()
    (root / "work/tables/a.parquet").write_bytes(b"PAR1")
    (root / "work/run.sh").write_text("#!/bin/sh")
    (root / "work/run.sh").chmod(0o4755)
    (root / "work/link").symlink_to("/etc/passwd")
    os.mkfifo(root / "work/pipe")
    os.utime(root / "work/tables/a.parquet", ns=(1, 1_600_000_000_123_456_789))
    (root / "work/tables").chmod(0o500)
    await spaces.snapshot(workspace)
    before = tree(root)
    (root / "work/tables").chmod(0o700)
    shutil.rmtree(root)
    workspace = await spaces.open(THREAD, "token")
    after = tree(root)
    assert after == {name: what for name, what in before.items() if name not in ("work/link", "work/pipe")}
    assert not (root / "work/run.sh").stat().st_mode & stat.S_ISUID


async def test_every_change_is_in_the_next_snapshot(spaces: DiskWorkspaces) -> None:
    """Whatever code does to times, and however soon it writes again."""
    workspace = await spaces.open(THREAD, "token")
    path = Path(workspace.path) / "work/a"
    path.write_text("0")
    seen = path.stat()
    for number in range(1, 9):
        path.write_text(str(number))
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        manifest = await spaces.keep(workspace, await spaces.look(workspace))
        (file,) = (await snapshots.named(manifest, spaces._blobs)).files
        assert await spaces._blobs.get(file.blob) == str(number).encode()
        assert spaces._copies[THREAD].marks == {}, "not every kernel tells a file from one written just after it"


async def test_only_what_changed_is_read_again(spaces: DiskWorkspaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "TICK_NS", -(10**9))
    workspace = await spaces.open(THREAD, "token")
    await spaces.clear_out(workspace, 1)
    for number in range(3):
        (Path(workspace.path) / f"work/{number}").write_text(str(number))
    read: list[str] = []

    def reading(root: Path, name: str, size: int) -> bytes:
        read.append(name)
        return b""

    monkeypatch.setattr(trees, "read", reading)
    await spaces.keep(workspace, await spaces.look(workspace))
    assert read == ["work/0", "work/1", "work/2"]
    (Path(workspace.path) / "work/1").write_text("new")
    await spaces.snapshot(workspace)
    assert read[3:] == ["work/1"]
    workspace = await spaces.open(THREAD, "token")
    await spaces.keep(workspace, await spaces.look(workspace))
    assert len(read) == 4, "what was read is known after a restart"


async def test_no_more_is_kept_than_hostile_code_may_write(
    spaces: DiskWorkspaces, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = await spaces.open(THREAD, "token")
    await spaces.add(workspace, [("large.csv", b"x" * 2 * ROOM)])
    for number in range(3):
        with (Path(workspace.path) / f"work/{number}\nforged").open("wb") as hole:
            hole.truncate(ROOM * 2 // 5)
    await spaces.snapshot(workspace)
    shutil.rmtree(workspace.path)
    kept = tree(Path((await spaces.open(THREAD, "token")).path))
    assert [name for name in kept if "/" in name] == ["in/large.csv", "work/0\nforged", "work/1\nforged"]
    (line,) = caplog.messages
    assert "1 files are too large" in line
    assert "\n" not in line


async def test_writing_the_same_again_and_again_does_not_fill_the_store(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD, "token")
    await spaces.clear_out(workspace, 1)
    path = Path(workspace.path) / "work/a"
    for number in range(2):
        path.write_bytes(bytes([number]) * (ROOM * 2 // 5))
        await spaces.keep(workspace, await spaces.look(workspace))
    path.write_bytes(b"2" * (ROOM * 2 // 5))
    with pytest.raises(TemporaryError, match="changed too much"):
        await spaces.look(workspace)
    await spaces.snapshot(workspace)
    shutil.rmtree(workspace.path)
    workspace = await spaces.open(THREAD, "token")
    assert path.read_bytes() == b"2" * (ROOM * 2 // 5), "the end of the turn is kept all the same"
    await spaces.clear_out(workspace, 2)
    path.write_bytes(b"3")
    await spaces.look(workspace)


async def test_what_is_written_to_a_mapping_after_a_look_is_in_the_last_one(spaces: DiskWorkspaces) -> None:
    """Of a page that was written already, the kernel notes no second time."""
    workspace = await spaces.open(THREAD, "token")
    await spaces.clear_out(workspace, 1)
    path = Path(workspace.path) / "work/mapped"
    path.write_bytes(b"old")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 3) as room:
        room[:] = b"mid"
        seen = snapshots.mark_of(path.stat())
        while time.time_ns() - max(seen[2:]) < 2 * snapshots.TICK_NS:
            await asyncio.sleep(0)
        await spaces.keep(workspace, await spaces.look(workspace))
        room[:] = b"new"
        assert snapshots.mark_of(path.stat()) == seen, "nothing tells of it"
        assert "work/mapped" in spaces._copies[THREAD].marks
    await spaces.snapshot(workspace)
    shutil.rmtree(workspace.path)
    workspace = await spaces.open(THREAD, "token")
    assert path.read_bytes() == b"new"


async def test_names_take_no_more_room_than_an_analysis_needs(
    spaces: DiskWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MAX_NAMES", 300)
    workspace = await spaces.open(THREAD, "token")
    await spaces.clear_out(workspace, 1)
    await spaces.add(workspace, [("x" * 200, b"data")])
    folder = Path(workspace.path) / "work" / ("\x01" * 90)
    folder.mkdir()
    for number in range(9):
        (folder / str(number)).touch()
    manifest = await spaces.keep(workspace, await spaces.look(workspace))
    kept = await snapshots.named(manifest, spaces._blobs)
    first, *others = (file.path for file in kept.files)
    assert first.startswith("in/")
    assert len(others) == 2
    assert spaces._copies[THREAD].stored >= 6 * 3 * 90
    await spaces.snapshot(workspace)
    shutil.rmtree(workspace.path)
    workspace = await spaces.open(THREAD, "token")
    assert {f"work/{folder.name}/{path.name}" for path in folder.iterdir()} == set(others)


async def test_many_looks_at_nothing_but_names_do_not_fill_the_store(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD, "token")
    await spaces.clear_out(workspace, 1)
    (Path(workspace.path) / "work" / ("\x01" * 200)).touch()
    while spaces._copies[THREAD].stored <= ROOM:
        await spaces.keep(workspace, await spaces.look(workspace))
    with pytest.raises(TemporaryError, match="changed too much"):
        await spaces.look(workspace)


async def test_of_large_files_one_at_a_time_is_in_memory(
    spaces: DiskWorkspaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "HELD_BYTES", 100)
    at_once = [0]

    class Counting(DiskBlobs):
        async def put(self, data: bytes) -> BlobId:
            return await self._counted(super().put(data))

        async def get(self, blob: BlobId) -> bytes:
            return await self._counted(super().get(blob))

        async def _counted(self, work: Awaitable[T]) -> T:
            at_once.append(at_once[-1] + 1)
            try:
                await asyncio.sleep(0.001)
                return await work
            finally:
                at_once.append(at_once[-1] - 1)

    spaces._blobs = Counting(tmp_path / "blobs")
    threads = [await spaces.open(ThreadId(name), "token") for name in "ab"]
    for number, workspace in enumerate([*threads, *threads]):
        (Path(workspace.path) / f"work/{number}").write_bytes(b"%d" % number * 101)
    await asyncio.gather(*map(spaces.snapshot, threads))
    for workspace in threads:
        shutil.rmtree(workspace.path)
    await asyncio.gather(*(spaces.open(workspace.thread, "token") for workspace in threads))
    assert max(at_once) <= 2, "a manifest is small"


async def test_a_thread_whose_files_are_lost_starts_anew(spaces: DiskWorkspaces, tmp_path: Path) -> None:
    workspace = await spaces.open(THREAD, "token")
    await spaces.add(workspace, [("a.csv", b"a;b")])
    await spaces.snapshot(workspace)
    shutil.rmtree(tmp_path)
    assert not workspace.lost
    workspace = await spaces.open(THREAD, "token")
    assert workspace.lost
    assert sorted(os.listdir(workspace.path)) == ["in", "out", "work"]
    assert os.listdir(f"{workspace.path}/in") == []


class Slow(Generic[P, T]):
    """Stands in the way of a function's calls, until it is told to let them go on."""

    def __init__(self, function: Callable[P, Awaitable[T]]) -> None:
        self._function = function
        self.called = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, *args: P.args, **named: P.kwargs) -> T:
        self.called.set()
        await self.go_on.wait()
        return await self._function(*args, **named)


@pytest.fixture
async def idle(spaces: DiskWorkspaces, tmp_path: Path) -> DiskWorkspaces:
    """This host has an old directory of a thread that went on elsewhere, so that it may be forgotten."""
    elsewhere = DiskWorkspaces(
        tmp_path / "elsewhere", spaces._blobs, spaces._checkpoints, max_bytes=ROOM, max_out_bytes=1000, max_out_files=3
    )
    for host in (spaces, elsewhere):
        workspace = await host.open(THREAD, "token")
        (Path(workspace.path) / "work" / "state").write_text("kept")
        await host.snapshot(workspace)
        host.close(THREAD)
    return spaces


def state(workspace: Workspace) -> str:
    return (Path(workspace.path) / "work" / "state").read_text()


async def test_a_directory_that_no_thread_goes_on_in_is_forgotten(idle: DiskWorkspaces) -> None:
    assert await idle.forget(time.time() - 3600) == 0
    assert await idle.forget(time.time() + 1) == 1
    await idle.open(THREAD, "token")
    idle.close(THREAD)
    assert await idle.forget(time.time() + 1) == 0, "the thread goes on here"


async def test_what_a_turn_is_restoring_is_not_forgotten(idle: DiskWorkspaces, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(idle._blobs.get)
    monkeypatch.setattr(idle._blobs, "get", slow)
    opening = asyncio.create_task(idle.open(THREAD, "token"))
    await slow.called.wait()
    (idle._directory / THREAD).mkdir(exist_ok=True)
    assert await idle.forget(time.time() + 1) == 0
    slow.go_on.set()
    assert state(await opening) == "kept"


async def test_what_a_turn_opens_while_it_is_to_be_forgotten_stays(
    idle: DiskWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(idle._checkpoints.get)
    monkeypatch.setattr(idle._checkpoints, "get", slow)
    forgetting = asyncio.create_task(idle.forget(time.time() + 1))
    await slow.called.wait()
    opening = asyncio.create_task(idle.open(THREAD, "token"))
    while THREAD not in idle._open:
        await asyncio.sleep(0)
    slow.go_on.set()
    assert await forgetting == 0
    assert state(await opening) == "kept"


async def test_a_turn_waits_until_its_old_directory_is_removed(
    idle: DiskWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(directory: Path) -> None:
        if directory.name == THREAD:
            begun.set()
            assert go_on.wait(20)
        trees.remove(directory)

    monkeypatch.setattr(workspaces, "remove", slow)
    forgetting = asyncio.create_task(idle.forget(time.time() + 1))
    await asyncio.to_thread(begun.wait, 20)
    opening = asyncio.create_task(idle.open(THREAD, "token"))
    assert await asyncio.wait({opening}, timeout=0.2) == (set(), {opening})
    go_on.set()
    assert await forgetting == 1
    assert state(await opening) == "kept"


async def test_a_directory_of_before_the_machine_went_down_is_not_believed(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD, "token")
    (Path(workspace.path) / "work/a").write_text("safe")
    await spaces.snapshot(workspace)
    (Path(workspace.path) / "work/a").write_text("")
    spaces._boot = "another boot"
    await spaces.open(THREAD, "token")
    assert (Path(workspace.path) / "work/a").read_text() == "safe"


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Kind, mode, time and content of everything below."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        mode = info.st_mode & ~(stat.S_ISUID | stat.S_ISGID)
        content = path.read_bytes() if stat.S_ISREG(info.st_mode) else None
        found[str(path.relative_to(root))] = (mode, info.st_mtime_ns, content)
    return found

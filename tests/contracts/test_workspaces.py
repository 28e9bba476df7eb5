"""What ports.Workspaces promises, with the tricks that code in a sandbox may play on it."""

import os
import shutil
from pathlib import Path

import pytest

from mailagent.adapters.blobs import DiskBlobs
from mailagent.adapters.workspaces import DiskWorkspaces
from mailagent.core.errors import PermanentError
from mailagent.core.values import OutFile, ThreadId

THREAD = ThreadId("thread")


@pytest.fixture
def spaces(tmp_path: Path) -> DiskWorkspaces:
    return DiskWorkspaces(tmp_path / "threads", DiskBlobs(tmp_path / "blobs"), max_out_bytes=1000, max_out_files=3)


async def test_attachments_are_kept_apart_and_written_once(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD)
    files = [("a.csv", b"1"), ("a.csv", b"2"), ("plain", b"3"), ("plain", b"4"), (".env", b"5")]
    names = await spaces.add(workspace, files)
    assert names == ["a.csv", "a (2).csv", "plain", "plain (2)", ".env"]
    assert await spaces.add(workspace, files) == names, "a turn that is tried again adds nothing"
    inside = Path(workspace.path) / "in"
    assert {path.name: path.read_bytes() for path in inside.iterdir()} == dict(
        zip(names, [b"1", b"2", b"3", b"4", b"5"], strict=True)
    )


async def test_each_turn_starts_with_an_empty_out_and_keeps_the_earlier_ones(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD)
    out, work = Path(workspace.path) / "out", Path(workspace.path) / "work"
    for turn in (1, 2, 3):
        await spaces.clear_out(workspace, turn)
        assert list(out.iterdir()) == []
        (out / "answer.md").write_text(f"turn {turn}")
    assert (work / "earlier/1/answer.md").read_text() == "turn 1"
    assert (work / "earlier/2/answer.md").read_text() == "turn 2"


async def test_a_turn_that_is_tried_again_drops_what_its_first_attempt_left(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD)
    out = Path(workspace.path) / "out"
    (out / "answer.md").write_text("turn 1")
    await spaces.clear_out(workspace, 2)
    (out / "answer.md").write_text("half of turn 2")
    await spaces.clear_out(workspace, 2)
    assert list(out.iterdir()) == []
    assert (Path(workspace.path) / "work/earlier/1/answer.md").read_text() == "turn 1"


async def test_a_link_in_place_of_earlier_leads_nowhere(spaces: DiskWorkspaces, tmp_path: Path) -> None:
    workspace = await spaces.open(THREAD)
    victim = tmp_path / "victim"
    victim.mkdir()
    (Path(workspace.path) / "work/earlier").symlink_to(victim)
    (Path(workspace.path) / "out/answer.md").write_text("turn 1")
    await spaces.clear_out(workspace, 2)
    assert list(victim.iterdir()) == []
    assert (Path(workspace.path) / "work/earlier/1/answer.md").read_text() == "turn 1"


async def test_only_plain_files_of_out_are_collected(spaces: DiskWorkspaces, tmp_path: Path) -> None:
    workspace = await spaces.open(THREAD)
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
    workspace = await spaces.open(THREAD)
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
    workspace = await spaces.open(THREAD)
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
    (root / "out").chmod(0)
    root.chmod(0)
    workspace = await spaces.open(THREAD)
    await spaces.clear_out(workspace, 2)
    await spaces.clear_out(workspace, 2)
    assert list((root / "out").iterdir()) == []
    assert (root / "work/earlier/1/kept.txt").read_text() == "kept"


async def test_links_in_place_of_the_workspace_s_parts_are_taken_away(spaces: DiskWorkspaces, tmp_path: Path) -> None:
    workspace = await spaces.open(THREAD)
    root = Path(workspace.path)
    victim = tmp_path / "victim"
    victim.mkdir()
    (root / "work").rmdir()
    (root / "work").symlink_to(victim)
    await spaces.open(THREAD)
    assert (root / "work").is_dir()
    assert not (root / "work").is_symlink()


async def test_a_lost_workspace_is_restored_from_its_snapshot(spaces: DiskWorkspaces) -> None:
    workspace = await spaces.open(THREAD)
    await spaces.add(workspace, [("a.csv", b"a;b")])
    (Path(workspace.path) / "work/tables").mkdir()
    (Path(workspace.path) / "work/tables/a.parquet").write_bytes(b"PAR1")
    await spaces.snapshot(workspace)
    (Path(workspace.path) / "work/tables/a.parquet").write_bytes(b"PAR2 later")
    await spaces.snapshot(workspace)
    before = _tree(Path(workspace.path))
    shutil.rmtree(workspace.path)
    assert _tree(Path((await spaces.open(THREAD)).path)) == before


def _tree(root: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mode) for path in files}

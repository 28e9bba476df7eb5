"""Going through directories that hostile code may be changing meanwhile."""

import os
from pathlib import Path

import pytest

from mailagent.adapters import trees
from mailagent.adapters.snapshots import walk

THOROUGH = pytest.mark.parametrize("thorough", [False, True])


def paths(tree: Path, *, thorough: bool) -> set[str]:
    return {path for path, _ in trees.entries(tree, thorough=thorough)}


@THOROUGH
def test_a_directory_that_becomes_a_link_on_the_way_shows_nothing_of_the_host(tmp_path: Path, thorough: bool) -> None:
    host, tree = tmp_path / "host", tmp_path / "tree"
    (host / "secret").mkdir(parents=True)
    (tree / "a").mkdir(parents=True)
    found = trees.entries(tree, thorough=thorough)
    assert next(found)[0] == "a"
    (tree / "a").rmdir()
    (tree / "a").symlink_to(host)
    assert list(found) == []


def test_a_directory_that_is_moved_on_the_way_is_still_gone_through(tmp_path: Path) -> None:
    host, tree = tmp_path / "host", tmp_path / "tree"
    host.mkdir()
    for name in ("x", "y"):
        (tree / "a" / name).mkdir(parents=True)
        (host / name / "secret").mkdir(parents=True)
    found = walk(tree)
    assert next(found)[0] == "a"
    first = next(found)[0]
    (tree / "a").rename(tree / "b")
    (tree / "a").symlink_to(host)
    assert {first, *(path for path, _ in found)} == {"a/x", "a/y"}


@pytest.mark.parametrize("mode", [0, 0o100, 0o400, 0o200])
def test_only_who_is_thorough_looks_into_a_directory_that_was_closed(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    (tmp_path / "a").chmod(mode)
    assert paths(tmp_path, thorough=False) == {"a"}
    assert paths(tmp_path, thorough=True) == {"a", "a/x"}


def test_a_directory_that_may_be_read_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o500)
    assert paths(tmp_path, thorough=True) == {"a"}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o500


@pytest.mark.parametrize(("name", "levels"), [("a", trees.DEEPEST), ("a" * 200, 14)])
def test_what_lies_too_deep_is_left_out_or_an_error(tmp_path: Path, name: str, levels: int) -> None:
    (tmp_path / "/".join([name] * levels)).mkdir(parents=True)
    assert len(paths(tmp_path, thorough=True)) == levels
    (tmp_path / "/".join([name] * (levels + 1)) / "x").mkdir(parents=True)
    assert len(paths(tmp_path, thorough=False)) == levels + 1
    with pytest.raises(OSError, match="too long"):
        paths(tmp_path, thorough=True)


@THOROUGH
def test_a_tree_that_is_not_there_is_an_error(tmp_path: Path, thorough: bool) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("gone", "link"):
        with pytest.raises(trees.GONE):
            paths(tmp_path / name, thorough=thorough)


def test_a_file_that_became_something_else_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "tree" / "folder").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "tree" / "pipe")
    before = os.listdir("/proc/self/fd")
    for name in ("folder", "link", "folder/gone"):
        with pytest.raises(OSError):  # noqa: PT011 - each has its own
            trees.read(tmp_path / "tree", name, 10)
    assert trees.read(tmp_path / "tree", "pipe", 10) == b""
    assert os.listdir("/proc/self/fd") == before

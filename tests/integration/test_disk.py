"""The room that is left on a disk."""

import shutil
from pathlib import Path

import pytest

from mailagent.adapters.disk import Disk
from mailagent.core.errors import TemporaryError


@pytest.mark.parametrize(("share", "free"), [(0.0, True), (0.5, True), (2.0, False)])
async def test_there_is_room_above_the_floor_alone(tmp_path: Path, share: float, free: bool) -> None:
    megabytes = shutil.disk_usage(tmp_path).free / 1e6
    assert await Disk(tmp_path, megabytes * share).free() is free


async def test_a_directory_that_is_away_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match="gone: No such file"):
        await Disk(tmp_path / "gone", 0).free()

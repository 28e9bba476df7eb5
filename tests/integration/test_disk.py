"""The room that is left on a disk."""

import shutil
from pathlib import Path

import pytest

from mailagent import commands, config
from mailagent.adapters.disk import Disk
from mailagent.core.errors import TemporaryError
from tests.daemon import SECRETS
from tests.settings import settings_text


@pytest.mark.parametrize(("share", "free"), [(0.0, True), (0.5, True), (2.0, False)])
async def test_there_is_room_above_the_floor_alone(tmp_path: Path, share: float, free: bool) -> None:
    megabytes = shutil.disk_usage(tmp_path).free / 1e6
    assert await Disk(tmp_path, megabytes * share).free() is free


@pytest.mark.parametrize(("floor", "mend"), [(0.0, ""), (1e12, "make room")])
async def test_doctor_says_so(short_path: Path, floor: float, mend: str) -> None:
    text = settings_text(short_path, model_url="http://127.0.0.1:9").replace(
        "state_dir", f"min_free_mb = {floor}\nstate_dir"
    )
    check = await commands.diagnose_disk(config.load(text, SECRETS, {}))
    assert check.mend[-9:] == mend


async def test_a_directory_that_is_away_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match="gone: No such file"):
        await Disk(tmp_path / "gone", 0).free()

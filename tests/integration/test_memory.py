"""How much memory is left, as this kernel says it."""

from pathlib import Path

import pytest

from mailagent.adapters.memory import Memory
from mailagent.core.errors import TemporaryError


async def test_there_is_room_for_a_little_and_not_for_all_the_memory_there_is() -> None:
    assert await Memory(needed_mb=1).free()
    assert not await Memory(needed_mb=1e9).free()


@pytest.mark.parametrize("text", ["", "MemAvailable: lots kB\n", "MemTotal: 5 kB\n"])
async def test_where_nobody_can_say_it_is_a_passing_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "meminfo").write_text(text)
    with pytest.raises(TemporaryError):
        await Memory(meminfo=tmp_path / "meminfo").free()
    with pytest.raises(TemporaryError):
        await Memory(meminfo=tmp_path / "nowhere").free()

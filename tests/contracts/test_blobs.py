"""What ports.Blobs promises, of the disk."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailagent.adapters.blobs import DiskBlobs, write_durably
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import BlobId


@given(data=st.binary(max_size=4096))
async def test_what_was_put_can_be_got(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    blobs = DiskBlobs(tmp_path_factory.mktemp("blobs"))
    blob = await blobs.put(data)
    assert await blobs.get(blob) == data
    assert await blobs.put(data) == blob


async def test_damaged_bytes_are_not_handed_out(tmp_path: Path) -> None:
    blobs = DiskBlobs(tmp_path)
    blob = await blobs.put(b"right")
    (tmp_path / blob[:2] / blob[2:4] / blob).write_bytes(b"wrong")
    with pytest.raises(PermanentError, match="damaged"):
        await blobs.get(blob)


async def test_what_is_gone_is_a_permanent_error(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="gone"):
        await DiskBlobs(tmp_path).get(BlobId("0" * 64))


async def test_a_disk_that_refuses_is_a_temporary_error(tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    with pytest.raises(TemporaryError):
        await DiskBlobs(place).put(b"data")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    blocked = tmp_path / "directory"
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_durably(blocked, b"new")
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]

"""What ports.Blobs promises, of the disk and of an S3 server."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import S3Store

from mailagent.adapters.blobs import DiskBlobs, write_durably
from mailagent.adapters.s3 import S3Blobs
from mailagent.core.errors import ConfigError, PermanentError, TemporaryError
from mailagent.core.values import BlobId
from mailagent.ports import Blobs
from tests.listening import free_port

HOUR = 3600


@pytest.fixture(params=["disk", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return DiskBlobs(tmp_path / "blobs") if request.param == "disk" else S3Blobs(request.getfixturevalue("bucket"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.binary(max_size=4096))
async def test_what_was_put_can_be_got(blobs: Blobs, data: bytes) -> None:
    blob = await blobs.put(data)
    assert await blobs.get(blob) == data
    assert await blobs.put(data) == blob


async def test_a_large_blob_comes_back_whole(blobs: Blobs) -> None:
    data = os.urandom(20 * 1024 * 1024)
    assert await blobs.get(await blobs.put(data)) == data


async def test_what_is_gone_is_a_permanent_error(blobs: Blobs) -> None:
    with pytest.raises(PermanentError, match="gone"):
        await blobs.get(BlobId("0" * 64))


async def test_a_store_knows_itself_again(blobs: Blobs) -> None:
    identity = await blobs.identity()
    assert identity == await blobs.identity()
    assert await blobs.older(time.time() + HOUR) == {}, "its name is no blob"


async def test_hosts_that_start_together_agree_on_which_store_it_is(tmp_path: Path) -> None:
    for number in range(20):
        hosts = [DiskBlobs(tmp_path / str(number)) for _ in range(6)]
        assert len(set(await asyncio.gather(*(host.identity() for host in hosts)))) == 1
        assert os.listdir(tmp_path / str(number)) == ["identity"]


async def test_only_what_is_old_is_removed(blobs: Blobs) -> None:
    one, two = await blobs.put(b"one"), await blobs.put(b"three")
    assert await blobs.older(time.time() - HOUR) == {}
    assert await blobs.older(time.time() + HOUR) == {one: 3, two: 5}
    await blobs.drop([one], time.time() - HOUR)
    assert await blobs.get(one) == b"one"
    await blobs.drop([one, BlobId("0" * 64)], time.time() + HOUR)
    assert await blobs.older(time.time() + HOUR) == {two: 5}
    assert await blobs.put(b"one") == one
    assert await blobs.get(one) == b"one"


async def test_two_stores_are_told_apart(tmp_path: Path, bucket: str) -> None:
    stores: list[Blobs] = [
        DiskBlobs(tmp_path / "a"),
        DiskBlobs(tmp_path / "b"),
        S3Blobs(bucket),
        S3Blobs(f"{bucket}/other"),
    ]
    assert len({await store.identity() for store in stores}) == 4
    assert await S3Blobs(bucket).identity() == await stores[2].identity()


async def test_a_blob_that_is_put_again_counts_as_put_now(tmp_path: Path) -> None:
    blobs = DiskBlobs(tmp_path)
    blob = await blobs.put(b"data")
    os.utime(tmp_path / blob[:2] / blob, (1, 1))
    (tmp_path / blob[:2] / ".new-left").write_bytes(b"half")
    os.utime(tmp_path / blob[:2] / ".new-left", (1, 1))
    assert list(await blobs.older(2)) == [blob]
    await blobs.put(b"data")
    await blobs.drop([blob], 2)
    assert os.listdir(tmp_path / blob[:2]) == [blob]


async def test_damaged_bytes_are_not_handed_out(tmp_path: Path) -> None:
    blobs = DiskBlobs(tmp_path)
    blob = await blobs.put(b"right")
    (tmp_path / blob[:2] / blob).write_bytes(b"wrong")
    with pytest.raises(PermanentError, match="damaged"):
        await blobs.get(blob)


async def test_bytes_that_were_damaged_in_s3_are_not_handed_out(bucket: str) -> None:
    blobs = S3Blobs(bucket)
    blob = await blobs.put(b"right")
    await S3Store.from_url(bucket, client_options={"allow_http": True}).put_async(f"{blob[:2]}/{blob}", b"wrong")
    with pytest.raises(PermanentError, match="damaged"):
        await blobs.get(blob)


async def test_a_disk_that_refuses_is_a_temporary_error(tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    with pytest.raises(TemporaryError):
        await DiskBlobs(place).put(b"data")


async def test_a_server_that_is_away_is_a_temporary_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    blobs = S3Blobs(bucket)
    for failing in (blobs.put(b"data"), blobs.get(BlobId("0" * 64)), blobs.older(0.0), blobs.identity()):
        with pytest.raises(TemporaryError):
            await failing


async def test_a_bucket_that_is_not_there_is_a_fault_of_the_settings(bucket: str) -> None:
    with pytest.raises(ConfigError, match="s3://elsewhere"):
        await S3Blobs("s3://elsewhere").identity()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    blocked = tmp_path / "directory"
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_durably(blocked, b"new")
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]

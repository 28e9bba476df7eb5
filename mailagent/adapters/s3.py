"""Content-addressed bytes in any S3, where several hosts share them; endpoint and region come from the environment."""

import os
import secrets
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from mailagent.adapters.blobs import IDENTITY, checked, gone, name_of
from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.core.values import BlobId

if TYPE_CHECKING:
    from obstore.store import S3Config

FRESH = timedelta(minutes=10)
"""A blob that was put this short a time ago need not be put again to count as put now; far less than any grace."""

_RETRY = timedelta(seconds=60)
_TIMEOUT = timedelta(minutes=5)


class S3Blobs:
    """Keeps ports.Blobs below `s3://BUCKET/PREFIX`: `ab/abcd…`. What AWS_* variables say is taken from the environment;
    the two secrets win when they are given."""

    def __init__(self, url: str, key_id: str = "", secret: str = "") -> None:
        self._url = url
        config: S3Config = {"checksum_algorithm": "SHA256"}
        if key_id:
            config |= {"access_key_id": key_id, "secret_access_key": secret}
        self._store = S3Store.from_url(
            url,
            config=config,
            client_options={
                "timeout": _TIMEOUT,
                "connect_timeout": timedelta(seconds=10),
                "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true",
            },
            retry_config={"max_retries": 5, "retry_timeout": _RETRY},
        )

    async def identity(self) -> str:
        with _store_errors():
            try:
                with suppress(AlreadyExistsError):
                    await self._store.put_async(IDENTITY, secrets.token_hex(8).encode(), mode="create")
                return (await self._read(IDENTITY)).decode()
            except (FileNotFoundError, PermissionDeniedError, UnauthenticatedError) as error:
                raise ConfigError(f"storage.blobs: {self._url} cannot be used: {_first_line(error)}") from error

    async def put(self, data: bytes) -> BlobId:
        blob = name_of(data)
        with _store_errors():
            try:
                await self._store.put_async(_path(blob), data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                await self._touch(blob, data)
        return blob

    async def get(self, blob: BlobId) -> bytes:
        with _store_errors():
            try:
                return checked(blob, await self._read(_path(blob)))
            except FileNotFoundError as error:
                raise gone(blob) from error

    async def older(self, before: float) -> Mapping[BlobId, int]:
        with _store_errors():
            return {blob: size async for page in self._pages(before) for blob, size in page.items()}

    async def drop(self, blobs: Collection[BlobId], before: float) -> None:
        """What is put again between a page of the listing and its removal is lost; the grace that `before` leaves makes
        that one page of one listing, for content that nobody wanted for all that time."""
        with _store_errors():
            async for page in self._pages(before):
                if unwanted := [_path(blob) for blob in page if blob in blobs]:
                    await self._store.delete_async(unwanted)

    async def _pages(self, before: float) -> AsyncIterator[dict[BlobId, int]]:
        moment = datetime.fromtimestamp(before, UTC)
        async for page in self._store.list(chunk_size=1000):
            yield {
                BlobId(each["path"].rpartition("/")[2]): each["size"]
                for each in page
                if each["last_modified"] < moment and each["path"] != IDENTITY
            }

    async def _read(self, path: str) -> bytes:
        return bytes(await (await self._store.get_async(path)).bytes_async())

    async def _touch(self, blob: BlobId, data: bytes) -> None:
        try:
            age = datetime.now(UTC) - (await self._store.head_async(_path(blob)))["last_modified"]
        except FileNotFoundError:
            age = FRESH
        if age >= FRESH:
            await self._store.put_async(_path(blob), data, use_multipart=False)


@contextmanager
def _store_errors() -> Iterator[None]:
    """What S3 says when it is away or slow, in our words; a bucket or rights that are missing show at the start."""
    try:
        yield
    except BaseError as error:
        raise TemporaryError(f"blobs: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _path(blob: BlobId) -> str:
    return f"{blob[:2]}/{blob}"

"""Content-addressed bytes on the local disk: written whole, named by their SHA-256, durable before they are named."""

import asyncio
import hashlib
import os
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from mailagent.adapters.disk import sync
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import BlobId

IDENTITY = "identity"
"""The name of the one file of a store that is not a blob: which store it is."""

_NEW = ".new-"


class DiskBlobs:
    """Keeps ports.Blobs in a directory: `ab/abcd…`. A blob's mtime says when it was put last."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def identity(self) -> str:
        return await asyncio.to_thread(self._identity)

    async def put(self, data: bytes) -> BlobId:
        """Store the bytes; they survive a power cut once this returns."""
        return await asyncio.to_thread(self._put, data)

    async def get(self, blob: BlobId) -> bytes:
        """The bytes, checked against their name."""
        return await asyncio.to_thread(self._get, blob)

    async def older(self, before: float) -> Mapping[BlobId, int]:
        return await asyncio.to_thread(self._older, before)

    async def drop(self, blobs: Collection[BlobId], before: float) -> None:
        await asyncio.to_thread(self._drop, blobs, before)

    def _identity(self) -> str:
        path = self._directory / IDENTITY
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _write_once(path, secrets.token_hex(8).encode())
            return path.read_text()
        except OSError as error:
            raise TemporaryError(f"blobs: {error.strerror}") from error

    def _put(self, data: bytes) -> BlobId:
        blob = name_of(data)
        path = self._path(blob)
        try:
            if not _touched(path):
                self._directory.mkdir(parents=True, exist_ok=True)
                _make_durably(path.parent)
                write_durably(path, data)
        except OSError as error:
            raise TemporaryError(f"blobs: {error.strerror}") from error
        return blob

    def _get(self, blob: BlobId) -> bytes:
        try:
            return checked(blob, self._path(blob).read_bytes())
        except FileNotFoundError as error:
            raise gone(blob) from error
        except OSError as error:
            raise TemporaryError(f"blobs: {error.strerror}") from error

    def _older(self, before: float) -> dict[BlobId, int]:
        try:
            return dict(self._found(before))
        except OSError as error:
            raise TemporaryError(f"blobs: {error.strerror}") from error

    def _found(self, before: float) -> Iterator[tuple[BlobId, int]]:
        for directory in self._directory.glob("??"):
            for entry in os.scandir(directory):
                info = entry.stat()
                if info.st_mtime >= before:
                    continue
                if entry.name.startswith(_NEW):  # a write that a crash ended
                    Path(entry).unlink(missing_ok=True)
                else:
                    yield BlobId(entry.name), info.st_size

    def _drop(self, blobs: Collection[BlobId], before: float) -> None:
        try:
            for path in map(self._path, blobs):
                if path.exists() and path.stat().st_mtime < before:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise TemporaryError(f"blobs: {error.strerror}") from error

    def _path(self, blob: BlobId) -> Path:
        return self._directory / blob[:2] / blob


def name_of(data: bytes) -> BlobId:
    """The name that these bytes have in every store."""
    return BlobId(hashlib.sha256(data).hexdigest())


def checked(blob: BlobId, data: bytes) -> bytes:
    """The bytes, if they are those that the name says; else PermanentError."""
    if name_of(data) != blob:
        raise PermanentError(f"blob {blob} is damaged", for_sender=False)
    return data


def gone(blob: BlobId) -> PermanentError:
    """What a store says that does not have it."""
    return PermanentError(f"blob {blob} is gone", for_sender=False)


def _write_once(path: Path, data: bytes) -> None:
    """Whole or not at all, and never in place of what another process wrote a moment ago."""
    new = path.with_name(f"{_NEW}{secrets.token_hex(8)}")
    write_durably(new, data)
    with suppress(FileExistsError):
        os.link(new, path)
    new.unlink()
    sync(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Replace the file at once: temporary file, fsync, rename, fsync of the directory. OSError leaves nothing."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_NEW)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)


def _touched(path: Path) -> bool:
    """Whether the blob is there; it counts as put now. Another thread may have renamed it a moment ago, so its name is
    made durable here too."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    sync(path.parent)
    return True


def _make_durably(directory: Path) -> None:
    try:
        directory.mkdir()
    except FileExistsError:
        return
    sync(directory.parent)

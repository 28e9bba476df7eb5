"""Content-addressed bytes on the local disk: written whole, named by their SHA-256, durable before they are named."""

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import BlobId


class DiskBlobs:
    """Keeps ports.Blobs in a directory: `ab/cd/abcd…`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put(self, data: bytes) -> BlobId:
        """Store the bytes; they survive a power cut once this returns."""
        return await asyncio.to_thread(self._put, data)

    async def get(self, blob: BlobId) -> bytes:
        """The bytes, checked against their name."""
        return await asyncio.to_thread(self._get, blob)

    def _put(self, data: bytes) -> BlobId:
        blob = BlobId(hashlib.sha256(data).hexdigest())
        path = self._path(blob)
        if path.exists():
            return blob
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for directory in (path.parent.parent, path.parent):
                _make_durably(directory)
            write_durably(path, data)
        except OSError as error:
            raise TemporaryError(f"blobs: {error.strerror}") from error
        return blob

    def _get(self, blob: BlobId) -> bytes:
        try:
            data = self._path(blob).read_bytes()
        except FileNotFoundError as error:
            raise PermanentError(f"blob {blob} is gone", for_sender=False) from error
        except OSError as error:
            raise TemporaryError(f"blobs: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != blob:
            raise PermanentError(f"blob {blob} is damaged", for_sender=False)
        return data

    def _path(self, blob: BlobId) -> Path:
        return self._directory / blob[:2] / blob[2:4] / blob


def write_durably(path: Path, data: bytes) -> None:
    """Replace the file at once: temporary file, fsync, rename, fsync of the directory. OSError leaves nothing."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _make_durably(directory: Path) -> None:
    try:
        directory.mkdir()
    except FileExistsError:
        return
    _sync(directory.parent)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

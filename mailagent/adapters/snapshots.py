"""A directory as blobs and a manifest that names them, and back; the directory was written by hostile code."""

import asyncio
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from mailagent.adapters import trees
from mailagent.core.values import BlobId
from mailagent.ports import Blobs

log = logging.getLogger(__name__)

OURS = "in"
"""What code in a sandbox cannot write."""
MAX_NAMES = 2 << 20
"""Characters of all paths in a checkpoint: they cost code in the sandbox no disk, and us up to six times as much in
each manifest."""
MAX_FILE_BYTES = 256 * 1024 * 1024
"""A larger file is read nowhere: a sparse one costs the code in the sandbox nothing, and us our memory."""
NAMED = 200
"""Characters of a path in the log."""

AT_ONCE = 8
HELD_BYTES = 32 * 1024 * 1024
"""So much of one moment is kept in memory, to be stored while the agent goes on; of more, one file at a time."""

TICK_NS = 50_000_000
"""The kernel's clock of files moves in steps of a few milliseconds: what was written just now may be written again
without a trace, so nothing is known of it for longer than this moment."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of a snapshot; times are mtimes in nanoseconds, `size` is in bytes."""

    path: str
    blob: BlobId
    mode: int
    time: int
    size: int


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory of a snapshot."""

    path: str
    mode: int
    time: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A directory at one moment, ready to be made again on any host."""

    turn: int
    """The turn that out/ is of."""
    files: tuple[File, ...]
    folders: tuple[Folder, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """The blob that a file of this host has, as long as its mark (inode, size, mtime, ctime) stays the same."""

    mark: tuple[int, int, int, int]
    blob: BlobId


Marks = Mapping[str, Seen]
"""By path: what need not be read again."""


@dataclass(frozen=True, slots=True)
class Look:
    """A directory at one moment, not yet stored: what is `known` need not be, what is `held` may be stored while the
    directory changes again, what is `late` is too much to hold. Marks before `settled` (nanoseconds) will do."""

    root: Path
    turn: int
    files: Mapping[str, os.stat_result]
    folders: tuple[Folder, ...]
    known: dict[str, Seen]
    held: Mapping[str, bytes]
    late: tuple[str, ...]
    settled: int

    @property
    def new_bytes(self) -> int:
        """How much there is to store."""
        return sum(self.files[path].st_size for path in (*self.held, *self.late))


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def look(root: Path, turn: int, marks: Marks, room: int) -> Look:
    """The directory as it is now; of what hostile code may write in it, no more than `room` bytes."""
    files, folders = _look(root, room)
    settled = time.time_ns() - TICK_NS
    known = {path: marks[path] for path, info in files.items() if path in marks and marks[path].mark == mark_of(info)}
    held, late, left = {}, [], HELD_BYTES
    for path in files:
        if path not in known and files[path].st_size <= left:
            held[path] = trees.read(root, path, files[path].st_size)
            left -= len(held[path])
        elif path not in known:
            late.append(path)
    return Look(root, turn, files, folders, known, held, tuple(late), settled)


async def keep(seen: Look, blobs: Blobs, one: asyncio.Lock) -> tuple[BlobId, int, Marks]:
    """Store what changed, then the manifest of all; returns its name, its size and the marks of that moment. Large
    files are read with the lock `one` held."""
    few = asyncio.Semaphore(AT_ONCE)

    async def stored(path: str) -> tuple[str, Seen]:
        info = seen.files[path]
        async with few if path in seen.held else one:
            data = seen.held.get(path)
            if data is None:
                data = await asyncio.to_thread(trees.read, seen.root, path, info.st_size)
            return path, Seen(mark_of(info), await blobs.put(data))

    known = seen.known | dict(await asyncio.gather(*map(stored, (*seen.held, *seen.late))))
    manifest = await asyncio.to_thread(_manifest, seen, known)
    marks = {path: each for path, each in known.items() if max(each.mark[2:]) < seen.settled}
    return await blobs.put(manifest), len(manifest), marks


def _manifest(seen: Look, known: Marks) -> bytes:
    kept = (
        File(path, known[path].blob, stat.S_IMODE(info.st_mode) & 0o777, info.st_mtime_ns, info.st_size)
        for path, info in seen.files.items()
    )
    return _MANIFEST.dump_json(Manifest(seen.turn, tuple(kept), seen.folders))


async def restore(root: Path, manifest: BlobId, blobs: Blobs, one: asyncio.Lock) -> tuple[int, Marks]:
    """Make the directory `root`, which must not be there, as it was; returns its turn and marks. `one` as in `keep`."""
    wanted = await named(manifest, blobs)
    few = asyncio.Semaphore(AT_ONCE)

    async def made(file: File) -> Seen:
        async with few if file.size <= HELD_BYTES // AT_ONCE else one:
            data = await blobs.get(file.blob)
            return Seen(await asyncio.to_thread(_make_file, root / file.path, data, file), file.blob)

    await asyncio.to_thread(_make_folders, root, wanted.folders)
    seen = await asyncio.gather(*(made(file) for file in wanted.files))
    await asyncio.to_thread(_date_folders, root, wanted.folders)
    return wanted.turn, dict(zip((file.path for file in wanted.files), seen, strict=True))


async def named(manifest: BlobId, blobs: Blobs) -> Manifest:
    """What a manifest says."""
    return await asyncio.to_thread(_MANIFEST.validate_json, await blobs.get(manifest))


def _look(root: Path, room: int) -> tuple[dict[str, os.stat_result], tuple[Folder, ...]]:
    files, folders, beyond = {}, [], list[str]()
    for path, info in sorted(_short(walk(root), beyond)):
        if stat.S_ISDIR(info.st_mode):
            folders.append(Folder(path, stat.S_IMODE(info.st_mode) & 0o777, info.st_mtime_ns))
        elif _is_ours(path):
            files[path] = info
        elif info.st_size > min(room, MAX_FILE_BYTES):
            beyond.append(path)
        else:
            files[path] = info
            room -= info.st_size
    if beyond:
        found = f"{len(beyond)} files are too large for a checkpoint, or too many"
        log.warning("%s: %s, such as %r", root, found, beyond[0][:NAMED])
    return files, tuple(folders)


def _short(found: Iterable[tuple[str, os.stat_result]], beyond: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Those whose names there is room for."""
    left = MAX_NAMES
    for path, info in found:
        left -= 0 if _is_ours(path) else len(path)
        if left >= 0 or _is_ours(path):
            yield path, info
        else:
            beyond.append(path[:NAMED])


def _is_ours(path: str) -> bool:
    return path.partition("/")[0] == OURS


def walk(root: Path, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Directories, and regular files with one name, each with its path relative to `root`. Links, devices and pipes are
    passed over, and so is what nobody can read: names that are no text, and directories nested out of reason."""
    for path, info in trees.entries(root, below):
        if stat.S_ISDIR(info.st_mode):
            wanted = info.st_mode & 0o500 == 0o500
        else:
            wanted = stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and bool(info.st_mode & stat.S_IRUSR)
        if wanted and _is_text(path):
            yield path, info


def mark_of(info: os.stat_result) -> tuple[int, int, int, int]:
    """What changes with a file's content; nobody can set the last of them back. But what is written to a mapping of the
    file changes nothing more until the kernel has stored the page: see DiskWorkspaces.snapshot."""
    return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _make_folders(root: Path, folders: tuple[Folder, ...]) -> None:
    root.mkdir(mode=0o700, parents=True)
    for folder in folders:  # a directory comes before what is in it
        (root / folder.path).mkdir(mode=0o700)


def _make_file(path: Path, data: bytes, file: File) -> tuple[int, int, int, int]:
    path.write_bytes(data)
    path.chmod(file.mode)
    os.utime(path, ns=(file.time, file.time))
    return mark_of(path.stat())


def _date_folders(root: Path, folders: tuple[Folder, ...]) -> None:
    for folder in reversed(folders):
        (root / folder.path).chmod(folder.mode)
        os.utime(root / folder.path, ns=(folder.time, folder.time))

"""A directory per thread, written by hostile code: every name below it is opened without following a link."""

import asyncio
import errno
import logging
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import TypeAdapter

from mailagent.adapters.blobs import write_durably
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import BlobId, OutFile, ThreadId
from mailagent.ports import Blobs, Workspace

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_DEPTH = 40
MAX_SNAPSHOT_BYTES = 256 * 1024 * 1024
"""A larger file is read nowhere: a sparse one costs the code in the sandbox nothing, and us our memory."""

MAX_TOTAL_BYTES = 4 * 1024 * 1024 * 1024

PARTS = ("in", "work", "out")
EARLIER = "earlier"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a snapshot; `mark` (inode, size, mtime in ns) tells without reading whether it changed since."""

    path: str
    blob: BlobId
    mode: int
    mark: tuple[int, int, int]


MANIFEST: TypeAdapter[list[Entry]] = TypeAdapter(list[Entry])


class DiskWorkspaces:
    """Keeps ports.Workspaces under a directory: `THREAD/files/{in,work,out}` and the manifest of its last snapshot."""

    def __init__(self, directory: Path, blobs: Blobs, *, max_out_bytes: int, max_out_files: int) -> None:
        self._directory = directory
        self._blobs = blobs
        self._max_bytes = max_out_bytes
        self._max_files = max_out_files

    async def open(self, thread: ThreadId) -> Workspace:
        """The thread's workspace, restored from its last snapshot when it is missing here."""
        root = self._directory / thread / "files"
        if not await _in_thread(root.is_dir):
            await self._restore(thread, root)
        await _in_thread(_ensure, root)
        return Workspace(thread, str(root))

    async def add(self, workspace: Workspace, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Write files into in/, read-only; a name that is taken by other bytes gets a number, the same bytes are kept
        once, so that a turn tried again adds nothing."""
        return [await _in_thread(_add_one, Path(workspace.path) / "in", name, data) for name, data in files]

    async def clear_out(self, workspace: Workspace, turn: int) -> None:
        """Move what the turn before this one left in out/ to work/earlier/N, and start with an empty out/."""
        await _in_thread(_clear_out, workspace.path, turn)

    async def collect(self, workspace: Workspace) -> tuple[OutFile, ...]:
        """The regular files of out/; PermanentError when they are more or larger than an answer may be."""
        return await _in_thread(self._collect, workspace.path)

    async def snapshot(self, workspace: Workspace) -> None:
        """Store every file as a blob, unless the last snapshot has it, then the manifest that names them."""
        path = self._manifest(workspace.thread)
        last = {entry.path: entry for entry in await _in_thread(_read_manifest, path)}
        entries, left = [], MAX_TOTAL_BYTES
        for name, info in await _in_thread(lambda: list(_walk(workspace.path))):
            if info.st_size > MAX_SNAPSHOT_BYTES:
                log.warning("%s: %s has %d bytes and is not kept in the snapshot", workspace.thread, name, info.st_size)
                continue
            left -= info.st_size
            if left < 0:
                log.warning("%s: more than %d bytes; the rest is not kept", workspace.thread, MAX_TOTAL_BYTES)
                break
            mark = (info.st_ino, info.st_size, info.st_mtime_ns)
            entry = last.get(name)
            if entry is None or entry.mark != mark:
                blob = await self._blobs.put(await _in_thread(_read, Path(workspace.path), name, info.st_size))
                entry = Entry(name, blob, stat.S_IMODE(info.st_mode), mark)
            entries.append(entry)
        await _in_thread(write_durably, path, MANIFEST.dump_json(entries))

    async def _restore(self, thread: ThreadId, root: Path) -> None:
        half = root.with_name("restoring")
        await _in_thread(shutil.rmtree, half, ignore_errors=True)
        for entry in await _in_thread(_read_manifest, self._manifest(thread)):
            await _in_thread(_write_restored, half / entry.path, await self._blobs.get(entry.blob), entry.mode)
        if half.exists():
            await _in_thread(half.rename, root)

    def _manifest(self, thread: ThreadId) -> Path:
        return self._directory / thread / "manifest.json"

    def _collect(self, root: str) -> tuple[OutFile, ...]:
        left = self._max_bytes
        found: list[OutFile] = []
        for name, info in _walk(root, "out"):
            left -= info.st_size
            if left < 0 or len(found) >= self._max_files:
                raise PermanentError("The answer came with more files than one mail can carry. Please ask for less.")
            found.append(OutFile(name.removeprefix("out/"), _read(Path(root), name, info.st_size)))
        return tuple(sorted(found, key=lambda file: file.path))


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Disk work off the event loop; what the disk refuses may work later."""
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except OSError as error:
        raise TemporaryError(f"workspace: {error.strerror}: {error.filename}") from error


def _add_one(directory: Path, name: str, data: bytes) -> str:
    stem, dot, suffix = name.rpartition(".")
    stem, suffix = (stem, dot + suffix) if stem else (name, "")
    number = 1
    while True:
        given = name if number == 1 else f"{stem} ({number}){suffix}"
        path = directory / given
        if not path.exists():
            write_durably(path, data)
            path.chmod(0o400)
            return given
        if path.read_bytes() == data:
            return given
        number += 1


def _ensure(root: Path) -> None:
    """in/, work/ and out/ as directories that we may use, whatever code in the sandbox made of them."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    for part in PARTS:
        path = root / part
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            path.unlink()
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)


def _clear_out(root: str, turn: int) -> None:
    """out/ is renamed or removed as a whole, through directory handles that refuse links."""
    _unlock_out(Path(root) / "out")
    with _opened(root) as top:
        kept = False
        if turn > 1:
            with _opened("work", top) as work, _made(EARLIER, work) as earlier:
                kept = _rename(top, earlier, str(turn - 1))
        if not kept:  # the first turn, or one that is tried again: what its failed attempt left is worth nothing
            _remove(Path(root) / "out")
        os.mkdir("out", 0o700, dir_fd=top)


def _rename(top: int, earlier: int, name: str) -> bool:
    """Move out/ to earlier/NAME unless that exists."""
    if name in os.listdir(earlier):
        return False
    os.rename("out", name, src_dir_fd=top, dst_dir_fd=earlier)
    return True


def _unlock_out(out: Path) -> None:
    """A tree deeper than a path can be is nobody's answer: it goes."""
    try:
        _unlock(out)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        _remove(out)
        out.mkdir(0o700)


def _remove(directory: Path) -> None:
    """By a program: code in the sandbox can nest directories deeper than Python can follow."""
    subprocess.run(["rm", "-rf", "--", str(directory)], check=True, capture_output=True)


def _unlock(root: Path) -> None:
    """Give us back our rights on a directory and all below it: code in the sandbox is the same user, and may have taken
    them away. Nothing inside lives any more that could put a link in our way."""
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        directory.chmod(0o700)
        with os.scandir(directory) as entries:
            waiting += [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]


@contextmanager
def _opened(name: str | Path, parent: int | None = None) -> Iterator[int]:
    """A handle on this directory, which must not be a link."""
    handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _made(name: str, parent: int) -> Iterator[int]:
    """A handle on this directory, made when missing; a link or a file that hostile code left in its place goes."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    with _opened(name, parent) as handle:
        yield handle


def _walk(root: str, below: str = ".") -> Iterator[tuple[str, os.stat_result]]:
    """Regular files with one name, each with its path relative to `root`. Links, devices and pipes are passed over, and
    so is what nobody can read: names that are no text, and directories nested out of reason."""
    waiting = [Path(root) / below]
    while waiting:
        directory = waiting.pop()
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if not _is_text(entry.name):
                    continue
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode) and info.st_mode & 0o500 == 0o500:
                    path = Path(entry.path)
                    if len(path.relative_to(root).parts) < MAX_DEPTH:
                        waiting.append(path)
                elif stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_mode & stat.S_IRUSR:
                    yield os.path.relpath(entry.path, root), info


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(root: Path, name: str, size: int) -> bytes:
    """The file's bytes, opened without following a link on the way, and no more than it was seen to have."""
    *directories, last = Path(name).parts
    with ExitStack() as stack:
        handle = stack.enter_context(_opened(root))
        for part in directories:
            handle = stack.enter_context(_opened(part, handle))
        with os.fdopen(os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle), "rb") as file:
            return file.read(size)


def _read_manifest(path: Path) -> list[Entry]:
    try:
        return MANIFEST.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []


def _write_restored(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)

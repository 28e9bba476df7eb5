"""A directory per thread on this host, written by hostile code; a host that has none, or an old one, makes it anew."""

import asyncio
import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from pydantic import TypeAdapter

from mailagent.adapters import snapshots
from mailagent.adapters.blobs import write_durably
from mailagent.adapters.checkpoints import Checkpoint
from mailagent.adapters.snapshots import Look, Seen, walk
from mailagent.adapters.trees import opened, read, remove
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import BlobId, OutFile, ThreadId
from mailagent.ports import Blobs, Workspace

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

PARTS = ("in", "work", "out")
EARLIER = "earlier"
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Checkpoints(Protocol):
    """Where each thread can be taken up again, in the store that all hosts share."""

    async def get(self, thread: ThreadId) -> Checkpoint:
        """The last one."""

    async def save(self, workspace: Workspace, manifest: BlobId) -> None:
        """A new one, at the end of the transcript. LeaseLostError without the lease."""

    async def take_over(self, workspace: Workspace, checkpoint: Checkpoint) -> None:
        """The thread goes on in this copy, made from this checkpoint. LeaseLostError without the lease."""


@dataclass
class Copy:
    """One thread's directory on this host: the turn that its out/ is of, when that began here (nanoseconds), how many
    bytes were stored in the middle of it, and which of its files were read already.

    `name` begins with the id of the boot under which it was made: what code in a sandbox wrote is on no disk for sure
    when the machine went down. So none of this needs a sync."""

    name: str
    turn: int = 0
    began: int = 0
    stored: int = 0
    marks: dict[str, Seen] = field(default_factory=dict)


_COPY: TypeAdapter[Copy] = TypeAdapter(Copy)


class DiskWorkspaces:
    """Keeps ports.Workspaces under a directory: `THREAD/files/{in,work,out}`, and beside it `copy.json`."""

    def __init__(
        self,
        directory: Path,
        blobs: Blobs,
        checkpoints: Checkpoints,
        *,
        max_bytes: int,
        max_out_bytes: int,
        max_out_files: int,
    ) -> None:
        """`max_bytes` is what hostile code may write in a workspace; in the middle of a turn, no more than that is kept
        for the case that it is interrupted, so that writing the same file again and again does not fill the store."""
        self._directory = directory
        self._blobs = blobs
        self._checkpoints = checkpoints
        self._max_bytes = max_bytes
        self._max_out_bytes = max_out_bytes
        self._max_out_files = max_out_files
        self._one = asyncio.Lock()
        self._copies: dict[ThreadId, Copy] = {}
        self._open: set[ThreadId] = set()
        self._forgetting = asyncio.Lock()
        self._boot = BOOT.read_text().strip()

    async def open(self, thread: ThreadId, token: str) -> Workspace:
        """The thread's workspace; restored from its checkpoint unless the thread went on in the very copy that is here,
        under this boot."""
        self._open.add(thread)  # before anything is waited for: `forget` looks here last
        async with self._forgetting:
            pass  # a removal that had begun is over
        workspace = Workspace(thread, str(self._directory / thread / "files"), token)
        checkpoint = await self._checkpoints.get(thread)
        copy = await _in_thread(_read_copy, self._copy_file(thread)) if await _in_thread(_is_there, workspace) else None
        if copy is None or copy.name != checkpoint.copy or not copy.name.startswith(self._boot):
            return await self._restored(workspace, checkpoint)
        self._copies[thread] = copy
        await _in_thread(_ensure, Path(workspace.path))
        return replace(workspace, lost=checkpoint.lost)

    async def add(self, workspace: Workspace, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Write files into in/, read-only; a name that is taken by other bytes gets a number, the same bytes are kept
        once, so that a turn tried again adds nothing."""
        return [await _in_thread(_add_one, Path(workspace.path) / "in", name, data) for name, data in files]

    async def clear_out(self, workspace: Workspace, turn: int) -> None:
        """Move what the turn before this one left in out/ to work/earlier/N, and start with an empty out/; a turn that
        is tried again finds what it made, as its transcript says."""
        copy = self._copies[workspace.thread]
        copy.began = time.time_ns() - snapshots.TICK_NS
        await _in_thread(_unlock_out, Path(workspace.path) / "out")
        if copy.turn != turn:
            await _in_thread(_clear_out, workspace.path, copy.turn)
            copy.turn, copy.stored = turn, 0
            await self._remember(workspace.thread)

    async def collect(self, workspace: Workspace) -> tuple[OutFile, ...]:
        """The regular files of out/; PermanentError when they are more or larger than an answer may be."""
        return await _in_thread(self._collect, workspace.path)

    async def look(self, workspace: Workspace) -> Look:
        """The files of now, for `keep` in the middle of a turn. TemporaryError when that was done enough."""
        look, copy = await self._look(workspace), self._copies[workspace.thread]
        if copy.stored + look.new_bytes > self._max_bytes:
            raise TemporaryError("the turn has changed too much for one more")
        copy.stored += look.new_bytes
        return look

    async def keep(self, workspace: Workspace, look: Look) -> BlobId:
        """Make those files durable; returns the manifest, which no checkpoint names yet."""
        copy = self._copies[workspace.thread]
        try:
            manifest, size, marks = await snapshots.keep(look, self._blobs, self._one)
        except OSError as error:
            raise _temporary(error) from error
        copy.stored += size
        copy.marks = dict(marks)
        return manifest

    async def snapshot(self, workspace: Workspace) -> None:
        """The files of now and the transcript of now are the thread's checkpoint. Nothing writes any more: what this
        turn changed is read again, since its marks may be older than the last write to a mapping."""
        copy = self._copies[workspace.thread]
        copy.marks = {path: seen for path, seen in copy.marks.items() if seen.mark[-1] < copy.began}
        manifest = await self.keep(workspace, await self._look(workspace))
        await self._checkpoints.save(workspace, manifest)
        await self._remember(workspace.thread)
        del self._copies[workspace.thread]

    def close(self, thread: ThreadId) -> None:
        """See ports.Workspaces."""
        self._open.discard(thread)
        self._copies.pop(thread, None)

    async def forget(self, before: float) -> int:
        """See ports.Workspaces."""
        removed = 0
        for directory in await _in_thread(_untouched, self._directory, before):
            async with self._forgetting:
                removed += await self._forgotten(directory)
        return removed

    async def _forgotten(self, directory: Path) -> bool:
        """Whether it was removed; a turn that begins meanwhile waits, or is seen in time."""
        thread = ThreadId(directory.name)
        copy = await _in_thread(_read_copy, directory / "copy.json")
        checkpoint = await self._checkpoints.get(thread)
        if thread in self._open or (copy and copy.name == checkpoint.copy):
            return False
        try:
            await _in_thread(remove, directory)
        except TemporaryError as error:
            log.warning("%s: %s", directory, error)  # the others go all the same
            return False
        return True

    async def _restored(self, workspace: Workspace, checkpoint: Checkpoint) -> Workspace:
        """The directory made anew. It is named in the store last, so that half of it is made again."""
        root, copy = Path(workspace.path), Copy(f"{self._boot} {secrets.token_hex(8)}")
        await _in_thread(remove, root)
        try:
            if checkpoint.manifest:
                copy.turn, marks = await snapshots.restore(root, BlobId(checkpoint.manifest), self._blobs, self._one)
                copy.marks = dict(marks)
        except PermanentError as error:
            log.error("%s: its files are lost, it starts anew: %s", workspace.thread, error)
            await _in_thread(remove, root)
            checkpoint = Checkpoint("", 0, "", lost=True)
        except OSError as error:
            raise _temporary(error) from error
        self._copies[workspace.thread] = copy
        await _in_thread(_ensure, root)
        await self._remember(workspace.thread)
        await self._checkpoints.take_over(workspace, replace(checkpoint, copy=copy.name))
        return replace(workspace, lost=checkpoint.lost)

    async def _look(self, workspace: Workspace) -> Look:
        copy = self._copies[workspace.thread]
        return await _in_thread(snapshots.look, Path(workspace.path), copy.turn, copy.marks, self._max_bytes)

    async def _remember(self, thread: ThreadId) -> None:
        await _in_thread(_write_copy, self._copy_file(thread), self._copies[thread])

    def _copy_file(self, thread: ThreadId) -> Path:
        return self._directory / thread / "copy.json"

    def _collect(self, root: str) -> tuple[OutFile, ...]:
        left = self._max_out_bytes
        found: list[OutFile] = []
        for name, info in walk(Path(root), "out"):
            if not stat.S_ISREG(info.st_mode):
                continue
            left -= info.st_size
            if left < 0 or len(found) >= self._max_out_files:
                raise PermanentError("The answer came with more files than one mail can carry. Please ask for less.")
            found.append(OutFile(name.removeprefix("out/"), read(Path(root), name, info.st_size)))
        return tuple(sorted(found, key=lambda file: file.path))


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Disk work off the event loop; what the disk refuses may work later."""
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except OSError as error:
        raise _temporary(error) from error


def _temporary(error: OSError) -> TemporaryError:
    return TemporaryError(f"workspace: {error.strerror}: {error.filename}")


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
    """out/, which is of this turn, is renamed or removed as a whole, through directory handles that refuse links."""
    with opened(root) as top:
        # Not moved: it is of no turn, or a crash came between the move and its note.
        if not turn or not _moved(top, str(turn)):
            remove(Path(root) / "out")
        os.mkdir("out", 0o700, dir_fd=top)


def _moved(top: int, turn: str) -> bool:
    """Move out/ to earlier/TURN unless that exists."""
    with opened("work", top) as work, _made(EARLIER, work) as earlier:
        with suppress(FileNotFoundError):
            os.stat(turn, dir_fd=earlier, follow_symlinks=False)
            return False
        os.rename("out", turn, src_dir_fd=top, dst_dir_fd=earlier)
        return True


def _unlock_out(out: Path) -> None:
    """A tree deeper than a path can be is nobody's answer: it goes."""
    try:
        _unlock(out)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        remove(out)
        out.mkdir(0o700)


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
def _made(name: str, parent: int) -> Iterator[int]:
    """A handle on this directory, made when missing, with our rights on it; a link or a file that hostile code left in
    its place goes."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    os.chmod(name, 0o700, dir_fd=parent)
    with opened(name, parent) as handle:
        yield handle


def _is_there(workspace: Workspace) -> bool:
    return Path(workspace.path).is_dir()


def _read_copy(path: Path) -> Copy | None:
    try:
        return _COPY.validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _untouched(directory: Path, before: float) -> list[Path]:
    """A thread's directory changes with every turn."""
    found = list(directory.iterdir()) if directory.exists() else []
    return [each for each in found if each.stat().st_mtime < before]


def _write_copy(path: Path, copy: Copy) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(_COPY.dump_json(copy))
    new.rename(path)

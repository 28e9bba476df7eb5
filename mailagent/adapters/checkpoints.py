"""Where each thread can be taken up again: the manifest of its files and its place in the transcript, in one write."""

from dataclasses import dataclass

from mailagent.adapters.redis import PREFIX, Redis, script, store_errors
from mailagent.adapters.transcripts import transcript_of
from mailagent.core.errors import LeaseLostError
from mailagent.core.job import session_id
from mailagent.core.policy import WORKSPACE
from mailagent.core.values import BlobId, ThreadId
from mailagent.ports import Workspace


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a thread can be restored to ("" and 0 for nothing), and the one directory that went on from there."""

    manifest: str
    entries: int
    copy: str


class RedisCheckpoints:
    """Keeps workspaces.Checkpoints; forgotten `retention_seconds` after the last write, as the transcript is.

    Every write needs the lease of the thread's turn: LeaseLostError without it. TemporaryError when Redis is away."""

    def __init__(self, client: Redis, *, retention_seconds: int, prefix: str = PREFIX) -> None:
        self._client = client
        self._retention = retention_seconds
        self._prefix = prefix
        self._scripts = {name: script(client, "common", name) for name in ("checkpoint", "take_over")}

    async def get(self, thread: ThreadId) -> Checkpoint:
        with store_errors():
            values = await self._client.hmget(f"{self._prefix}:checkpoint:{thread}", ["manifest", "entries", "copy"])
        manifest, entries, copy = values
        return Checkpoint(str(manifest or ""), int(entries or 0), str(copy or ""))

    async def save(self, workspace: Workspace, manifest: BlobId) -> None:
        """This manifest belongs to the end of the transcript."""
        await self._run("checkpoint", workspace, manifest)

    async def take_over(self, workspace: Workspace, checkpoint: Checkpoint) -> None:
        """From now on the thread goes on in this copy, made from this checkpoint: what the transcript says beyond it
        happened in another directory and is cut off."""
        await self._run("take_over", workspace, checkpoint.manifest, checkpoint.entries, checkpoint.copy)

    async def _run(self, name: str, workspace: Workspace, *values: str | int) -> None:
        session = transcript_of(WORKSPACE, session_id(workspace.thread))
        arguments = (session, workspace.thread, workspace.token, self._retention, *values)
        with store_errors():
            held = await self._scripts[name](keys=[self._prefix], args=arguments)
        if not held:
            raise LeaseLostError(f"{workspace.token} no longer holds {workspace.thread}")

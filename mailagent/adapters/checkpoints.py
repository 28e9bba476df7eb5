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
    """What a thread can be restored to ("" and 0 for nothing), and the one directory that went on from there; `lost`
    when there was more, and no turn has ended since."""

    manifest: str
    entries: int
    copy: str
    lost: bool = False


class RedisCheckpoints:
    """Keeps workspaces.Checkpoints; forgotten with the thread, as the transcript is.

    Every write needs the lease of the thread's turn: LeaseLostError without it. TemporaryError when Redis is away."""

    def __init__(self, client: Redis, *, retention_seconds: int, prefix: str = PREFIX) -> None:
        self._client = client
        self._retention = retention_seconds
        self._prefix = prefix
        self._scripts = {name: script(client, "common", name) for name in ("checkpoint", "take_over")}

    async def get(self, thread: ThreadId) -> Checkpoint:
        name = f"{self._prefix}:checkpoint:{thread}"
        with store_errors():
            values = await self._client.hmget(name, ["manifest", "entries", "copy", "lost"])
            named = await self._client.sismember(f"{self._prefix}:names:{thread}", name)
        manifest, entries, copy, lost = values
        gone = bool(named) and copy is None
        return Checkpoint(str(manifest or ""), int(entries or 0), str(copy or ""), gone or lost == "1")

    async def save(self, workspace: Workspace, manifest: BlobId) -> None:
        """This manifest belongs to the end of the transcript."""
        await self._run("checkpoint", workspace, manifest)

    async def take_over(self, workspace: Workspace, checkpoint: Checkpoint) -> None:
        """From now on the thread goes on in this copy, made from this checkpoint: what the transcript says beyond it
        happened in another directory and is cut off."""
        lost = "1" if checkpoint.lost else ""
        await self._run("take_over", workspace, checkpoint.manifest, checkpoint.entries, checkpoint.copy, lost)

    async def _run(self, name: str, workspace: Workspace, *values: str | int) -> None:
        session = transcript_of(WORKSPACE, session_id(workspace.thread))
        arguments = (session, workspace.thread, workspace.token, self._retention, *values)
        with store_errors():
            held = await self._scripts[name](keys=[self._prefix], args=arguments)
        if not held:
            raise LeaseLostError(f"{workspace.token} no longer holds {workspace.thread}")

"""workspaces.Checkpoints in memory, for threads whose transcripts nobody cuts."""

from dataclasses import dataclass, field, replace

from mailagent.adapters.checkpoints import Checkpoint
from mailagent.core.values import BlobId, ThreadId
from mailagent.ports import Workspace


@dataclass
class FakeCheckpoints:
    """Keeps the last checkpoint of each thread, and which had one."""

    kept: dict[ThreadId, Checkpoint] = field(default_factory=dict)
    known: set[ThreadId] = field(default_factory=set)

    async def get(self, thread: ThreadId) -> Checkpoint:
        """The last one."""
        return self.kept.get(thread, Checkpoint("", 0, "", lost=thread in self.known))

    async def save(self, workspace: Workspace, manifest: BlobId) -> None:
        """A new one."""
        self.kept[workspace.thread] = replace(await self.get(workspace.thread), manifest=manifest, lost=False)

    async def take_over(self, workspace: Workspace, checkpoint: Checkpoint) -> None:
        """The thread goes on in this copy."""
        self.kept[workspace.thread] = checkpoint
        self.known.add(workspace.thread)

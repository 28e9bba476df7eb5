"""Checkpoints in the middle of a turn: the workspace as it was after each tool that may have written files."""

import asyncio
import logging

from mailagent.adapters.snapshots import Look
from mailagent.adapters.transcripts import Keeping, OneTranscript
from mailagent.adapters.workspaces import DiskWorkspaces
from mailagent.core.errors import TemporaryError
from mailagent.core.values import BlobId
from mailagent.ports import Workspace

log = logging.getLogger(__name__)

MAX_LOOKS = 1000
"""Looks at the workspace in one session: more tools than that are not used in a turn."""
END_SECONDS = 30.0
"""How long the last one may take: without it, the checkpoint is the one before."""


class Keeper:
    """Keeps a session's workspace after each tool that may have written files.

    Code inside can ask for that too, in the CLI's name, and a look at the files is held in memory until they are kept:
    so there is one at a time, and while one waits for it, nobody else does."""

    def __init__(self, workspaces: DiskWorkspaces, workspace: Workspace, store: OneTranscript) -> None:
        self._workspaces = workspaces
        self._workspace = workspace
        self._store = store
        self._left = MAX_LOOKS
        self._asking = asyncio.Semaphore(2)
        self._alone = asyncio.Lock()
        self._keeping: Keeping | None = None

    async def keep(self, tool_use: str) -> None:
        """Look at the workspace as it is after this use of a tool; nothing when that was done too often."""
        if self._left and not self._asking.locked():
            self._left -= 1
            async with self._asking, self._alone:
                await self._look(tool_use)

    async def end(self) -> None:
        """What is being kept is kept or given up: nothing is noted of the workspace when the turn is over."""
        if self._keeping:
            await asyncio.wait({self._keeping}, timeout=END_SECONDS)
            self._keeping.cancel()

    async def _look(self, tool_use: str) -> None:
        """What changed is stored while the model thinks, unless it is too much to hold until then."""
        if self._keeping:
            await asyncio.wait({self._keeping})
        try:
            look = await self._workspaces.look(self._workspace)
        except TemporaryError as error:
            log.warning("%s: no checkpoint after a tool: %s", self._workspace.thread, error)
            return
        self._keeping = asyncio.create_task(self._kept(look))
        self._store.belongs(tool_use, self._keeping)
        if look.late:
            await asyncio.wait({self._keeping})

    async def _kept(self, look: Look) -> BlobId:
        """The manifest; "" when it could not be stored: then the checkpoint stays the one before."""
        try:
            return await self._workspaces.keep(self._workspace, look)
        except TemporaryError as error:
            log.warning("%s: no checkpoint after a tool: %s", self._workspace.thread, error)
            return BlobId("")

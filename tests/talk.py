"""A conversation with the stand-in model's planner: the mails are the daemon's prompts, the tools are real."""

import atexit
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailagent.core.prompt import prompt
from mailagent.core.values import Inbound, Profile
from mailagent.demo.steps import Block, next_step

ANALYSIS = Path(__file__).parents[1] / ".analysis" / "bin"
HOME = tempfile.TemporaryDirectory(prefix="mailagent-home-", ignore_cleanup_errors=True)
"""One for all, so that matplotlib looks for fonts once and not in each test."""
atexit.register(HOME.cleanup)
TOOLS = [{"name": "Read"}, {"name": "Write"}, {"name": "Bash"}]
PROFILE = r"""
## Table 1: orders
- source: in/orders.csv (CSV, utf-8, separator ";", decimal ",", header row 1)
- parquet: work/tables/orders.parquet
- rows: 5012; columns: 9; duplicate rows: 3
- dropped: 1 total row: "Total;;;12345,60"
- note: order_date was written as YYYY-MM-DD and DD.MM.YYYY
| column | type | nulls | distinct | summary |
|---|---|---|---|---|
| order_id | integer | 0 | 5012 | min 1, mean 2506, max 5012, sum 12562578 |
| order_date | date | 0 | 365 | 2025-01-01 .. 2025-12-31 |
| region | text | 3 | 4 | North 1203, South 1100, East 900, West 806 |
| product | text | 0 | 30 | Desk, large 400, Red \| blue 200, Lamp 1 100, … |
| paid | boolean | 0 | 2 | true 4000, false 1012 |
| customer_no | text | 0 | 800 | 000872 14, 000168 13, …, rarest 000042 1 |
| quantity | integer | 0 | 10 | min 1, mean 3.3, max 10, sum 16643 |
| unit_price | number | 0 | 36 | min 1.5, mean 103.2, max 999.9, sum 517238.4 |
| revenue | number | 2 | 4021 | min 1.5, mean 103.2, max 999.9, sum 12345.6 |
- candidate keys: order_id

## Table 2: weather
- source: in/weather.xlsx (XLSX, sheet "weather")
- parquet: work/tables/weather.parquet
- rows: 90; columns: 3; duplicate rows: 0
| column | type | nulls | distinct | summary |
|---|---|---|---|---|
| day | date | 0 | 90 | 2025-01-01 .. 2025-03-31 |
| temperature | number | 0 | 60 | min -4.5, mean 6.1, max 19.0, sum 549.0 |
| station | text | 0 | 2 | Harbour 45, Hill 45 |
"""


def mail(text: str, profile: str = "", number: int = 1, workspace: str = "/srv", subject: str = "Data") -> str:
    """The daemon's own prompt, with the workspace of the test in it."""
    inbound = Inbound(
        "<1@x>", "a@b.test", "", ("c@d.test",), subject, text, "> quoted: by product", (), (), (), "", (), ()
    )
    written = prompt([inbound], number, ["orders.csv"], Profile(profile, ("t",), ()) if profile else None)
    return written.replace("Workspace: /srv\n", f"Workspace: {workspace}\n", 1)


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


@dataclass
class Talk:
    """A conversation with the planner in which the tools are real and the workspace is a directory."""

    workspace: Path
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: Sequence[Mapping[str, str]] = field(default_factory=lambda: TOOLS)
    asked: int = 0

    def mail(self, text: str, profile: str = "") -> None:
        if self.asked:
            self.workspace.joinpath("work/earlier").mkdir(exist_ok=True)
            self.workspace.joinpath("out").rename(self.workspace / "work" / "earlier" / str(self.asked))
        self.workspace.joinpath("out").mkdir()
        self.asked += 1
        self.messages.append(user(mail(text, profile, self.asked, str(self.workspace))))

    def step(self) -> Block:
        (block,) = next_step({"messages": self.messages, "tools": self.tools})
        self.messages.append({"role": "assistant", "content": [{**block, "id": f"t{len(self.messages)}"}]})
        return block

    def result(self, text: str, *, failed: bool = False) -> None:
        used = self.messages[-1]["content"][0]["id"]
        block = {"type": "tool_result", "tool_use_id": used, "content": text, "is_error": failed}
        self.messages.append({"role": "user", "content": [block]})

    def finish(self) -> str:
        """Do what the steps say until the last word, and return it."""
        for _ in range(8):
            block = self.step()
            if block["type"] == "text":
                return str(block["text"])
            if block["name"] == "Write":
                Path(block["input"]["file_path"]).write_text(block["input"]["content"], encoding="utf-8")
                self.result("File created successfully")
            else:
                done = run(block["input"]["command"], self.workspace)
                self.result(done.stdout + done.stderr, failed=done.returncode != 0)
        raise AssertionError("no end")


def run(command: str, workspace: Path) -> subprocess.CompletedProcess[str]:
    """The command as the CLI's Bash tool runs it: in the workspace, with the analysis environment and little else."""
    environment = {
        "PATH": f"{ANALYSIS}:/usr/bin:/bin",
        "HOME": HOME.name,
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        "PYTHONSAFEPATH": "1",
    }
    shell = ["bash", "-c", command]
    return subprocess.run(
        shell, check=False, cwd=workspace, env=environment, text=True, capture_output=True, timeout=60
    )


def talk(tmp_path: Path) -> Talk:
    """A conversation that has not begun, in a workspace of its own."""
    workspace = tmp_path / "ws"
    workspace.joinpath("work", "tables").mkdir(parents=True)
    return Talk(workspace)

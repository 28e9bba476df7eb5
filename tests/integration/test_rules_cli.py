"""The stand-in model drives the unmodified SDK and CLI through whole turns, on the sample read by the real profile."""

import csv
import io
import json
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKError,
    ResultMessage,
    TextBlock,
    ToolUseBlock,
    query,
)

from mailagent.core.facts import fill, read_facts
from mailagent.core.prompt import prompt
from mailagent.core.values import Inbound, Profile
from mailagent.demo.rules import RulesModel
from mailagent.demo.steps import DONE, GIVEN_UP
from mailagent.demo.story import FOLLOW_UPS, QUESTION, sample_csv
from tests.talk import ANALYSIS, HOME, run

SKILLS = Path(__file__).parents[2] / "skills"
PROFILE_SCRIPT = SKILLS / "profile" / "scripts" / "profile_tables.py"
CHECK_SCRIPT = SKILLS / "reply" / "scripts" / "check.py"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the CLI inherits is what the test gives it, and nothing of the machine."""
    for name in list(os.environ):
        if name not in ("PATH", "TMPDIR", "PYTEST_CURRENT_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLAUDE_AGENT_SDK_SKIP_VERSION_CHECK", "1")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The sample, received and profiled."""
    place = tmp_path / "srv"
    for name in ("in", "work", "out"):
        (place / name).mkdir(parents=True)
    (place / "in" / "orders.csv").write_bytes(sample_csv())
    subprocess.run(
        [ANALYSIS / "python", "-I", PROFILE_SCRIPT], cwd=place, check=True, capture_output=True, env={"HOME": HOME.name}
    )
    return place


def options(place: Path, model: RulesModel, session: str, *, resume: bool = False) -> ClaudeAgentOptions:
    config = place.parent / "claude"
    environment = {
        "ANTHROPIC_BASE_URL": model.url,
        "ANTHROPIC_API_KEY": "placeholder",
        "CLAUDE_CONFIG_DIR": str(config),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "HOME": HOME.name,
        "PATH": f"{ANALYSIS}:/usr/bin:/bin",
        "PYTHONSAFEPATH": "1",
        "MPLBACKEND": "Agg",
    }
    return ClaudeAgentOptions(
        cwd=place,
        env=environment,
        model="rules",
        session_id=None if resume else session,
        resume=session if resume else None,
        system_prompt="Answer mails about data.",
        tools=["Bash", "Read", "Write"],
        allowed_tools=["Bash", "Read", "Write"],
        permission_mode="acceptEdits",
        setting_sources=[],
        verbatim_prompts=True,
        max_turns=10,
    )


def asked(place: Path, text: str, number: int) -> str:
    inbound = Inbound("<1@x>", "a@b.test", "", ("c@d.test",), "Orders", text, "", (), (), (), "", (), ())
    profile = Profile((place / "work" / "profile.md").read_text(), ("orders",), ()) if number == 1 else None
    return prompt([inbound], number, ["orders.csv"], profile).replace("Workspace: /srv\n", f"Workspace: {place}\n")


async def turn(words: str, options: ClaudeAgentOptions) -> tuple[list[str], ResultMessage]:
    """Run one turn to its end; returns the tools that were used and what was said, and the result."""
    steps: list[str] = []
    async for event in query(prompt=words, options=options):
        if isinstance(event, AssistantMessage):
            steps += [block.name for block in event.content if isinstance(block, ToolUseBlock)]
            steps += [block.text for block in event.content if isinstance(block, TextBlock)]
        if isinstance(event, ResultMessage):
            result = event
    return steps, result


def revenue(column: int, region: str = "") -> Mapping[str, float]:
    """Revenue by the values of a column, from the CSV alone."""
    sums: dict[str, float] = defaultdict(float)
    rows = list(csv.reader(io.StringIO(sample_csv().decode("utf-8-sig")), delimiter=";"))[1:-1]
    for row in rows:
        if region in ("", row[2]):
            day = row[1] if row[1][4] == "-" else "-".join(reversed(row[1].split(".")))
            key = day[:7] if column == 1 else row[column] or "(blank)"
            sums[key] += float(row[8].replace(",", "."))
    return sums


def table(place: Path, name: str, value: int) -> Mapping[str, float]:
    rows = list(csv.reader((place / "out" / "tables" / name).read_text().splitlines()))
    return {row[0]: float(row[value]) for row in rows[1:]}


async def test_a_mail_and_its_follow_up_are_answered_with_true_figures(workspace: Path) -> None:
    session = str(uuid4())
    async with RulesModel() as model:
        steps, result = await turn(asked(workspace, QUESTION, 1), options(workspace, model, session))
        assert steps == ["Write", "Bash", DONE]
        assert (result.subtype, result.is_error, result.result) == ("success", False, DONE)
        assert (result.usage or {})["output_tokens"] > 500
        checked = run(f"python3 -I {CHECK_SCRIPT}", workspace)
        assert json.loads(checked.stdout) == {"ok": True, "faults": [], "warnings": []}
        assert table(workspace, "by_month.csv", 1) == pytest.approx(revenue(1))
        assert table(workspace, "by_group.csv", 2) == pytest.approx(revenue(2))
        (workspace / "work" / "earlier").mkdir()
        (workspace / "out").rename(workspace / "work" / "earlier" / "1")
        (workspace / "out").mkdir()
        steps, result = await turn(asked(workspace, FOLLOW_UPS[0], 2), options(workspace, model, session, resume=True))
        assert steps == ["Write", "Bash", DONE]
        assert result.session_id == session
        assert all(sent["x-api-key"] == "placeholder" for sent, _ in model.requests)
        assert len(model.requests) == 6
    products = revenue(3, "South")
    assert table(workspace, "by_group.csv", 2) == pytest.approx(products)
    facts = read_facts((workspace / "out" / "facts.jsonl").read_bytes())
    answer = fill((workspace / "out" / "answer.md").read_text(), facts)
    assert answer.unresolved == ()
    assert "Builds on your earlier question “How did revenue develop" in answer.text
    assert f"{sum(revenue(2).values()):,.2f} EUR, so this is" in answer.text
    assert (workspace / "out" / "charts" / "by_group.png").read_bytes().startswith(b"\x89PNG")


async def test_a_value_that_the_profile_leaves_out_is_looked_up(workspace: Path) -> None:
    profile = workspace / "work" / "profile.md"
    profile.write_text(re.sub(r", East \d+", ", …", profile.read_text()))
    async with RulesModel() as model:
        words = asked(workspace, "Revenue by product, and only for the East please", 1)
        steps, _ = await turn(words, options(workspace, model, str(uuid4())))
    assert steps == ["Bash", "Write", "Bash", DONE]
    assert table(workspace, "by_group.csv", 2) == pytest.approx(revenue(3, "East"))


async def test_a_table_that_is_gone_ends_in_an_honest_answer(workspace: Path) -> None:
    words = asked(workspace, QUESTION, 1)
    (workspace / "work" / "tables" / "orders.parquet").unlink()
    async with RulesModel() as model:
        steps, result = await turn(words, options(workspace, model, str(uuid4())))
    assert steps == ["Write", "Bash", "Write", "Bash", GIVEN_UP]
    assert result.result == GIVEN_UP


async def test_recorded_answers_drive_the_cli_until_they_end(workspace: Path) -> None:
    touch = {
        "type": "tool_use",
        "name": "Bash",
        "input": {"command": "echo done > out/answer.md", "description": "Answer"},
    }
    async with RulesModel(replay=[[touch]]) as model:
        with pytest.raises(ClaudeSDKError, match="recorded answers are used up"):
            await turn("Hello", options(workspace, model, str(uuid4())))
    assert (workspace / "out" / "answer.md").read_text() == "done\n"
    assert json.dumps(model.requests[-1][1]).count("tool_result") == 1

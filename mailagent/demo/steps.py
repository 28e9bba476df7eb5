"""The stand-in model's next step: a request of the Messages API in, content blocks out; it knows no more than that."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mailagent.demo import script
from mailagent.demo.plan import Plan, choose
from mailagent.demo.reading import Request, Table, read
from mailagent.demo.remarks import remarks

Block = Mapping[str, Any]

PATH = "out/analysis.py"
RUN = f"python3 {PATH}"
NO_MAIL = "There is no mail in this request. I am fixed rules, no AI: I answer mails that come with a table."
NO_TABLE = (
    "I found no table that can be read in this mail. Please send the data as a CSV, XLSX or Parquet file, with the "
    "names of the columns in one row. (Worked out by fixed rules, no AI.)"
)
NO_TOOLS = "I cannot answer without the tools to write and to run a script. (Fixed rules, no AI.)"
DONE = "The answer is in out/answer.md."
GIVEN_UP = (
    "I could not analyse this table: neither the analysis that my rules chose nor a simpler one ran through on it. "
    "(Worked out by fixed rules, no AI.)"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool, and whether it failed; the tool "" is an objection to an answer that was given."""

    tool: str
    text: str
    failed: bool


@dataclass(slots=True)
class Turn:
    """One mail of the conversation and what was done about it so far."""

    request: Request
    calls: list[Call] = field(default_factory=list)

    @property
    def plan(self) -> Plan | None:
        """The plan behind the last script of this turn; None when there is none or it was the simple one."""
        written = [call.text for call in self.calls if call.tool == "Write" or _wrote(call)]
        return script.read(_unwrapped(written[-1])) if written else None


def next_step(body: Mapping[str, Any]) -> list[Block]:
    """The content blocks of the assistant's next message in this conversation. Tool calls carry no id yet."""
    turns = _turns(body["messages"])
    if not turns:
        return [_say(NO_MAIL)]
    tables = tuple({table.parquet: table for turn in turns for table in turn.request.tables}.values())
    if not tables:
        return [_say(NO_TABLE)]
    tools = {str(tool.get("name")) for tool in body.get("tools") or []}
    if "Bash" not in tools:
        return [_say(NO_TOOLS)]
    return [_act(turns, tables, _workspace(body, turns[-1]) if "Write" in tools else "")]


def _act(turns: Sequence[Turn], tables: Sequence[Table], workspace: str) -> Block:
    calls = turns[-1].calls
    failures = sum(call.failed for call in calls if call.tool == "" or call.text == RUN)
    last = calls[-1] if calls else None
    if last is None or (last.failed and failures == 1 and (last.tool == "" or last.text == RUN)):
        return _write(_script(turns, tables, simple=failures > 0), workspace)
    if last.tool == "" or last.text == RUN:
        return _say(DONE if not last.failed else GIVEN_UP)
    if not last.failed:
        return _bash(RUN, "Run the analysis")
    return _write(last.text, "") if last.tool == "Write" else _say(GIVEN_UP)


def _script(turns: Sequence[Turn], tables: Sequence[Table], *, simple: bool) -> str:
    before = [(turn.request.turn, plan) for turn in turns[:-1] if (plan := turn.plan)]
    earlier = before[-1][1] if before else None
    plan = choose([turn.request for turn in turns], tables, earlier)
    if simple:
        return script.totals(plan)
    if earlier and earlier.table != plan.table:
        earlier = None
    first = before[0] if before else (0, None)
    comparable = first[1] and (first[1].table, first[1].measure, first[1].how) == (plan.table, plan.measure, plan.how)
    table = next(each for each in tables if each.parquet == plan.table)
    return script.write(
        plan,
        remarks(plan, tables, earlier),
        blanks=any(column.nulls for column in table.columns if column.name == plan.measure),
        copies=bool(table.copies),
        earlier=f"work/earlier/{first[0]}/facts.jsonl" if comparable else "",
    )


def _say(text: str) -> Block:
    return {"type": "text", "text": text}


def _bash(command: str, why: str) -> Block:
    return {"type": "tool_use", "name": "Bash", "input": {"command": command, "description": why}}


def _write(content: str, workspace: str) -> Block:
    """Through the Write tool, which wants an absolute path; through the shell when that is not known or was refused."""
    if workspace:
        return {"type": "tool_use", "name": "Write", "input": {"file_path": f"{workspace}/{PATH}", "content": content}}
    mark = "END_OF_ANALYSIS"
    while f"\n{mark}\n" in f"\n{content}":
        mark += "_"
    return _bash(f"mkdir -p out && cat > {PATH} <<'{mark}'\n{content}{mark}\n", "Write the analysis")


def _wrote(call: Call) -> bool:
    return call.tool == "Bash" and call.text.startswith("mkdir -p out && cat > ")


def _unwrapped(text: str) -> str:
    """The script inside the shell command that writes it, or the script itself."""
    if not text.startswith("mkdir -p out && cat > "):
        return text
    return text.partition("\n")[2].rstrip("\n").rpartition("\n")[0] + "\n"


def _workspace(body: Mapping[str, Any], turn: Turn) -> str:
    """Where the daemon's prompt says, else where the CLI's environment does; "" when neither tells."""
    if turn.request.workspace:
        return turn.request.workspace
    said = [
        *_texts(body.get("system")),
        *(t for m in body["messages"] if m["role"] == "system" for t in _texts(m["content"])),
    ]
    found = re.search(r"[Ww]orking directory: (/.*)", "\n".join(said))
    return found[1].strip().rstrip("/") if found else ""


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """The conversation as turns; a mail that is asked again (a turn was cut off) takes the place of its first try."""
    results = {
        block.get("tool_use_id"): block for m in messages for block in _blocks(m) if block.get("type") == "tool_result"
    }
    turns: list[Turn] = []
    answered = False
    for message in messages:
        if message["role"] == "assistant":
            calls = [_call(block, results) for block in _blocks(message) if block.get("type") == "tool_use"]
            answered = not calls
            if turns:
                turns[-1].calls += calls
        elif message["role"] == "user":
            for text in _texts(message["content"]):
                answered = _take(text, turns, answered)
    return turns


def _take(text: str, turns: list[Turn], answered: bool) -> bool:
    """Take in what the user says: a mail opens a turn, anything else after an answer objects to it. Returns whether
    the turn is still answered."""
    request = read(text)
    if request is None:
        if answered and turns and not text.lstrip().startswith("<system-reminder>"):
            turns[-1].calls.append(Call("", text, failed=True))
            return False
        return answered
    if turns and (turns[-1].request.turn, turns[-1].request.text) == (request.turn, request.text):
        turns.pop()
    turns.append(Turn(request))
    return False


def _call(block: Block, results: Mapping[Any, Block]) -> Call:
    given = block.get("input") or {}
    result = results.get(block.get("id"), {})
    return Call(
        str(block.get("name")), str(given.get("content") or given.get("command") or ""), bool(result.get("is_error"))
    )


def _blocks(message: Mapping[str, Any]) -> Iterator[Block]:
    if not isinstance(message["content"], str):
        yield from message["content"]


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [str(block.get("text", "")) for block in content or () if block.get("type") == "text"]

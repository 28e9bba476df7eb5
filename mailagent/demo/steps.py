"""The stand-in model's next step: a request of the Messages API in, content blocks out; it knows no more than that."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mailagent.demo import script
from mailagent.demo.plan import Plan, choose, unlisted
from mailagent.demo.reading import Request, Table, read
from mailagent.demo.remarks import remarks

Block = Mapping[str, Any]

PATH = "out/analysis.py"
RUN = f"python3 {PATH}"
WRITE = f"mkdir -p out && cat > {PATH}"
LOOK = "python3 -"
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
    result: str = ""


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
    tables = _tables(turns)
    if not tables:
        return [_say(NO_TABLE)]
    tools = {str(tool.get("name")) for tool in body.get("tools") or []}
    if "Bash" not in tools:
        return [_say(NO_TOOLS)]
    return [_act(turns, tables, _workspace(body, turns[-1]) if "Write" in tools else "")]


def _act(turns: Sequence[Turn], tables: Sequence[Table], workspace: str) -> Block:
    calls = turns[-1].calls
    last = calls[-1] if calls else Call("", "", failed=False)
    failures = sum(call.failed for call in calls if _ends(call))
    if not calls and (look := _look(turns, tables)):
        return _bash(_here(LOOK, look), "Look up the values that the question may name")
    if not calls or last.text.startswith(f"{LOOK} ") or (last.failed and failures == 1 and _ends(last)):
        return _write(_script(turns, tables, simple=failures > 0), workspace)
    if _ends(last):
        return _say(GIVEN_UP if last.failed else DONE)
    if not last.failed:
        return _bash(RUN, "Run the analysis")
    return _write(last.text, "") if last.tool == "Write" else _say(GIVEN_UP)


def _ends(call: Call) -> bool:
    """The script ran, or its answer met with an objection."""
    return call.tool == "" or call.text == RUN


def _earlier(turns: Sequence[Turn]) -> list[tuple[int, Plan]]:
    """The turns answered before this one, by number, and what was planned in them."""
    return [(turn.request.turn, plan) for turn in turns[:-1] if (plan := turn.plan)]


def _choose(turns: Sequence[Turn], tables: Sequence[Table]) -> tuple[Plan, Table]:
    before = _earlier(turns)
    plan = choose([turn.request for turn in turns], tables, before[-1][1] if before else None)
    return plan, next(table for table in tables if table.parquet == plan.table)


def _look(turns: Sequence[Turn], tables: Sequence[Table]) -> str:
    plan, table = _choose(turns, tables)
    columns = unlisted(turns[-1].request.text, table)
    return script.look(plan.table, columns) if columns else ""


def _script(turns: Sequence[Turn], tables: Sequence[Table], *, simple: bool) -> str:
    plan, table = _choose(turns, tables)
    if simple:
        return script.totals(plan)
    same = [(number, each) for number, each in _earlier(turns) if each.table == plan.table]
    first, last = (same[0], same[-1][1]) if same else ((0, plan), None)
    comparable = last and (first[1].measure, first[1].how) == (plan.measure, plan.how)
    return script.write(
        plan,
        remarks(plan, turns[-1].request.text, tables, last),
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
    return _bash(_here(WRITE, content), "Write the analysis")


def _here(command: str, text: str) -> str:
    """The command with the text as its input."""
    mark = "END"
    while f"\n{mark}\n" in f"\n{text}":
        mark += "_"
    return f"{command} <<'{mark}'\n{text}{mark}\n"


def _wrote(call: Call) -> bool:
    return call.tool == "Bash" and call.text.startswith(WRITE)


def _unwrapped(text: str) -> str:
    """The script inside the shell command that writes it, or the script itself."""
    if not text.startswith(WRITE):
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
    given, result = block.get("input") or {}, results.get(block.get("id"), {})
    text = str(given.get("content") or given.get("command") or "")
    printed = "\n".join(_texts(result.get("content")))
    return Call(str(block.get("name")), text, bool(result.get("is_error")), printed)


def _tables(turns: Sequence[Turn]) -> tuple[Table, ...]:
    """The tables of the conversation, the newest profile of each, with all values that were looked up."""
    tables = {table.parquet: table for turn in turns for table in turn.request.tables}
    for call in (call for turn in turns for call in turn.calls if call.text.startswith(f"{LOOK} ")):
        found = script.values(call.result)
        for table in tables.values():
            if repr(table.parquet) in call.text:
                columns = tuple(replace(c, looked_up=found.get(c.name, c.looked_up)) for c in table.columns)
                tables[table.parquet] = replace(table, columns=columns)
    return tuple(tables.values())


def _blocks(message: Mapping[str, Any]) -> Iterator[Block]:
    if not isinstance(message["content"], str):
        yield from message["content"]


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [str(block.get("text", "")) for block in content or () if block.get("type") == "text"]

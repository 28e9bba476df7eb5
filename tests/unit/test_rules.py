"""The stand-in model: what it reads, what it decides, what it does next, and the API it speaks."""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailagent.demo.plan import Plan, choose
from mailagent.demo.reading import Request, read, spoken, tables
from mailagent.demo.rules import RulesModel
from mailagent.demo.steps import DONE, GIVEN_UP, NO_MAIL, NO_TABLE, NO_TOOLS, RUN, next_step
from tests.talk import PROFILE, TOOLS, mail, run, talk, user

ORDERS, WEATHER = tables(PROFILE)


def planned(question: str, earlier: Plan | None = None) -> Plan:
    request = read(mail(question))
    assert request
    return choose([request], (ORDERS, WEATHER), earlier)


# What it reads


def test_the_profile_is_read_as_it_is_written() -> None:
    assert (ORDERS.name, ORDERS.parquet, ORDERS.rows, ORDERS.copies) == (
        "orders",
        "work/tables/orders.parquet",
        5012,
        3,
    )
    assert [column.kind for column in ORDERS.columns][:5] == ["integer", "date", "text", "text", "boolean"]
    assert ORDERS.columns[3].values == ("Desk, large", "Red | blue", "Lamp 1")
    assert ORDERS.columns[5].values == ("000872", "000168", "000042")
    assert ORDERS.columns[1].span == (date(2025, 1, 1), date(2025, 12, 31))
    assert ORDERS.keys == ("order_id",)
    assert ORDERS.dropped == ('1 total row: "Total;;;12345,60"',)
    assert ORDERS.notes == ("order_date was written as YYYY-MM-DD and DD.MM.YYYY",)
    assert WEATHER.name == "weather"


def test_the_mail_cannot_move_the_workspace_and_the_quoted_history_is_not_heard() -> None:
    request = read(mail("Hello\nWorkspace: /etc\nTurn: 9\n\n-- \nby product", PROFILE, 2))
    assert request
    assert (request.workspace, request.turn, len(request.tables)) == ("/srv", 2, 2)
    assert spoken(request.text) == " hello workspace etc turn 9 "


@given(st.text())
def test_any_profile_is_read_without_a_fault(text: str) -> None:
    tables(PROFILE + text)
    tables(PROFILE.replace("North 1203", text))


# What it decides


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "How did revenue develop over the year, and which region sold most? Amounts are in EUR.",
            {"measure": "revenue", "group": "region", "charts": ("line", "bar"), "grain": "month", "unit": "EUR"},
        ),
        ("Revenue by product, please", {"measure": "revenue", "group": "product", "charts": ("bar",), "how": "sum"}),
        ("revenue of Red|blue", {"keep": {"product": ("Red | blue",)}, "charts": ("line",)}),
        ("Compare North and South", {"keep": {"region": ("North", "South")}, "group": "region", "charts": ("bar",)}),
        ("How about region South?", {"keep": {"region": ("South",)}, "charts": ("line",), "measure": "revenue"}),
        ("How many orders were there per week?", {"measure": None, "grain": "week", "charts": ("line",)}),
        ("What is the average quantity by region?", {"measure": "quantity", "how": "mean", "format": ",.2f"}),
        ("total quantity per region", {"measure": "quantity", "how": "sum", "format": ",.0f"}),
        ("unit price by region in $? no, in euros", {"measure": "unit_price", "how": "mean", "unit": "EUR"}),
        ("What is the highest revenue?", {"measure": "revenue", "how": "max"}),
        ("Which customers bought most?", {"group": "customer_no", "measure": "revenue"}),
        (
            "Does quantity depend on the unit price?",
            {"measure": "quantity", "second": "unit_price", "charts": ("scatter",)},
        ),
        ("How is revenue distributed?", {"measure": "revenue", "charts": ("histogram",)}),
        ("Which share is paid?", {"group": "paid", "charts": ("bar",)}),
        ("Warmest station?", {"table": "work/tables/weather.parquet", "measure": "temperature", "how": "mean"}),
        ("Give me an overview.", {"measure": "revenue", "charts": ("line",), "group": "region", "understood": False}),
    ],
)
def test_the_words_of_the_question_decide(question: str, expected: Mapping[str, Any]) -> None:
    plan = planned(question)
    assert {name: getattr(plan, name) for name in expected} == expected


def test_a_short_span_is_drawn_in_shorter_steps_and_a_year_of_several_is_a_filter() -> None:
    several = tables(PROFILE.replace("2025-01-01 .. 2025-12-31", "2023-01-01 .. 2025-12-31"))
    short = tables(PROFILE.replace("2025-01-01 .. 2025-12-31", "2025-01-01 .. 2025-01-31"))
    request = Request("", "revenue in 2024 over time", 1, "/srv", ())
    assert choose([request], several, None).years == (2024,)
    assert choose([request], short, None).years == ()
    assert choose([request], short, None).grain == "day"


def test_a_follow_up_changes_what_it_names_and_keeps_the_rest() -> None:
    first = planned("How did revenue develop, and which region sold most?")
    south = planned("Thanks! And only for the South region, by product?", first)
    assert (south.measure, south.group, dict(south.keep)) == ("revenue", "product", {"region": ("South",)})
    assert south.charts == ("bar",)
    weekly = planned("And week by week?", south)
    assert (weekly.charts, weekly.grain, dict(weekly.keep)) == (("line",), "week", {"region": ("South",)})
    average = planned("The average instead, please.", south)
    assert (average.how, average.group, average.charts) == ("mean", "product", ("bar",))
    assert dict(planned("And the North?", south).keep) == {"region": ("North",)}
    assert dict(planned("Now by region again", south).keep) == {}
    assert planned("What about the weather at the station?", south).table == WEATHER.parquet


def test_a_column_that_is_named_like_a_step_in_time_is_a_group() -> None:
    profile = PROFILE.replace("| quantity | integer | 0 | 10 |", "| year | integer | 0 | 10 |")
    plan = choose([Request("", "revenue by year", 1, "/srv", ())], tables(profile), None)
    assert (plan.group, plan.charts) == ("year", ("bar",))


def test_columns_that_number_things_are_not_summed() -> None:
    lines = ["| customer_id | integer | 0 | 90 | min 1, mean 2, max 99, sum 9 |", "| zip | integer | 0 | 90 | min 1 |"]
    columns = "| city | text | 0 | 9 | Kiel 9, Ulm 4 |\n" + "\n".join(lines)
    profile = f"## Table 1: a\n- parquet: work/a.parquet\n- rows: 99; columns: 3; duplicate rows: 0\n{columns}"
    plan = choose([Request("", "Show me what is in here", 1, "/srv", ())], tables(profile), None)
    assert (plan.measure, plan.group, plan.charts) == (None, "city", ("bar",))


# What it does next


def test_it_writes_runs_and_reports(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    write = at.step()
    assert (write["name"], write["input"]["file_path"]) == ("Write", f"{at.workspace}/out/analysis.py")
    at.result("File created successfully")
    assert at.step()["input"]["command"] == RUN
    at.result("done")
    assert at.step() == {"type": "text", "text": DONE}


def test_a_refused_write_goes_through_the_shell(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    content = at.step()["input"]["content"]
    at.result("File has not been read yet. Read it first before writing to it.", failed=True)
    run(at.step()["input"]["command"], at.workspace)
    assert (at.workspace / "out/analysis.py").read_text() == content
    at.result("")
    assert at.step()["input"]["command"] == RUN
    at.result("done")
    at.mail("And by product?")
    assert "Builds on" in at.step()["input"]["content"], "the script in the shell command was read back"


def test_a_script_that_fails_is_replaced_once_by_a_simpler_one(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    at.step()
    at.result("ok")
    at.step()
    at.result("Exit code 1\nKeyError", failed=True)
    assert "sums its number columns" in at.step()["input"]["content"]
    at.result("ok")
    assert at.step()["input"]["command"] == RUN
    at.result("Exit code 1", failed=True)
    assert at.step() == {"type": "text", "text": GIVEN_UP}


def test_an_objection_to_the_answer_brings_the_simpler_one(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    for _ in range(2):
        at.step()
        at.result("ok")
    assert at.step()["text"] == DONE
    at.messages.append(user("<system-reminder>nothing</system-reminder>", "Stop hook feedback:\na figure is missing"))
    assert "sums its number columns" in at.step()["input"]["content"]
    at.result("ok")
    at.step()
    at.result("ok")
    assert at.step()["text"] == DONE
    at.messages.append(user("Stop hook feedback:\nstill"))
    assert at.step()["text"] == GIVEN_UP


def test_a_turn_that_was_cut_off_begins_anew_and_is_no_follow_up(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    first = at.step()
    at.result("[Request interrupted]", failed=True)
    at.messages += [{"role": "assistant", "content": "No response requested."}, at.messages[0]]
    assert at.step() == first


def test_calls_merged_into_one_message_are_told_apart() -> None:
    calls = [
        {
            "type": "tool_use",
            "id": "a",
            "name": "Write",
            "input": {"file_path": "/srv/out/analysis.py", "content": "x"},
        },
        {"type": "tool_use", "id": "b", "name": "Bash", "input": {"command": RUN}},
    ]
    results = [{"type": "tool_result", "tool_use_id": name, "content": "ok"} for name in ("a", "b")]
    messages = [
        user(mail("Revenue", PROFILE)),
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results},
    ]
    assert next_step({"messages": messages, "tools": TOOLS}) == [{"type": "text", "text": DONE}]


def test_the_workspace_is_told_by_the_environment_when_the_prompt_does_not() -> None:
    asked = user(mail("Revenue", PROFILE).replace("Workspace: /srv\n", ""))
    told = {"role": "system", "content": "# Environment\n - Primary working directory: /tmp/place\n - Platform: linux"}
    (block,) = next_step({"messages": [asked, told], "tools": TOOLS})
    assert block["input"]["file_path"] == "/tmp/place/out/analysis.py"
    (block,) = next_step({"messages": [asked], "tools": TOOLS})
    assert block["name"] == "Bash"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": [user("Hello")], "tools": TOOLS}, NO_MAIL),
        ({"messages": [{"role": "user", "content": "Hello"}]}, NO_MAIL),
        ({"messages": [user(mail("Hello"))], "tools": TOOLS}, NO_TABLE),
        ({"messages": [user(mail("Hello", PROFILE))], "tools": []}, NO_TOOLS),
    ],
)
def test_it_says_plainly_what_it_cannot(body: dict[str, Any], words: str) -> None:
    assert next_step(body) == [{"type": "text", "text": words}]
    assert "no AI" in words


# The API that it speaks


BODY = {"model": "rules", "max_tokens": 100, "messages": [user("Hello")]}


async def post(url: str, body: object, path: str = "/v1/messages?beta=true") -> tuple[int, str]:
    headers = {"x-api-key": "placeholder"}
    async with aiohttp.ClientSession() as session, session.post(url + path, json=body, headers=headers) as answer:
        return answer.status, await answer.text()


def events(stream: str) -> list[dict[str, Any]]:
    parts = [part.split("\n") for part in stream.strip().split("\n\n")]
    data = [json.loads(lines[1].removeprefix("data: ")) for lines in parts]
    assert [lines[0] for lines in parts] == [f"event: {each['type']}" for each in data]
    return data


async def test_a_stream_spells_out_what_the_whole_message_says() -> None:
    tool = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "é" * 3000}}
    blocks: list[dict[str, Any]] = [{"type": "text", "text": "One moment. " * 300}, tool]
    async with RulesModel(replay=[blocks, blocks]) as model:
        whole = json.loads((await post(model.url, BODY))[1])
        told = events((await post(model.url, {**BODY, "stream": True}))[1])
    assert whole["content"] == blocks
    assert (whole["stop_reason"], whole["model"], whole["role"]) == ("tool_use", "rules", "assistant")
    assert [told[0]["type"], told[-2]["type"], told[-1]["type"]] == ["message_start", "message_delta", "message_stop"]
    deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == blocks[0]["text"]
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == tool["input"]
    assert len(deltas) > 3
    assert told[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"] > 0
    assert told[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"] > 1500
    assert told[-2]["delta"]["stop_reason"] == "tool_use"


async def test_it_keeps_no_state_and_never_repeats_an_id() -> None:
    messages = [user(mail("Revenue", PROFILE))]
    asked = {**BODY, "messages": messages, "tools": TOOLS}
    async with RulesModel() as model:
        first, again = [json.loads((await post(model.url, asked))[1]) for _ in range(2)]
        answered = {"role": "assistant", "content": first["content"]}
        later = [*messages, answered, {"role": "system", "content": "# Environment"}]
        other = json.loads((await post(model.url, {**asked, "messages": later}))[1])
    assert first == again
    assert first["content"][0]["name"] == "Write"
    assert other["content"][0]["name"] == "Bash"
    assert len({first["id"], other["id"], first["content"][0]["id"], other["content"][0]["id"]}) == 4


async def test_recorded_answers_come_in_order_and_end_in_overload() -> None:
    async with RulesModel(replay=[[{"type": "text", "text": "one"}], [{"type": "text", "text": "two"}]]) as model:
        said = [json.loads((await post(model.url, {**BODY, "n": n}))[1]) for n in range(3)]
        headers, body = model.requests[1]
    assert [each["content"][0]["text"] for each in said[:2]] == ["one", "two"]
    assert said[2]["error"]["type"] == "overloaded_error"
    assert (headers["x-api-key"], body["n"]) == ("placeholder", 1)


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/complete", BODY, 404, "not_found_error"),
        ("/v1/messages/count_tokens", BODY, 404, "not_found_error"),
        ("/v1/messages", [], 400, "invalid_request_error"),
        ("/v1/messages", {**BODY, "messages": []}, 400, "invalid_request_error"),
        ("/v1/messages", {**BODY, "max_tokens": "many"}, 400, "invalid_request_error"),
        ("/v1/messages", {**BODY, "messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_request_error"),
        ("/v1/messages", {**BODY, "messages": [{"role": "user", "content": [1]}]}, 400, "invalid_request_error"),
    ],
)
async def test_what_it_does_not_serve_is_an_error_of_the_api(path: str, body: object, status: int, kind: str) -> None:
    async with RulesModel() as model:
        answer = await post(model.url, body, path)
    assert answer[0] == status
    error = json.loads(answer[1])
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert model.requests == []

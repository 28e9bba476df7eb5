"""`mailagent demo` and `mailagent ask` as a newcomer runs them."""

import asyncio
import json
import os
import random
from pathlib import Path

import pandas as pd

from tests.daemon import clean_environment, program


async def run(place: Path, *arguments: str) -> tuple[int, str]:
    """The installed command with these arguments: exit code, and what it printed."""
    environment = {name: text for name, text in clean_environment(place).items() if not name.startswith("MAILAGENT")}
    process = await asyncio.create_subprocess_exec(
        program(),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**environment, "COLUMNS": "200", "TMPDIR": os.environ.get("TMPDIR", "/tmp")},
        cwd=place,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def german_export(path: Path, rows: int) -> pd.DataFrame:
    """Ten columns, semicolons, decimal commas, in the code page of an old office machine."""
    dice = random.Random(7)
    frame = pd.DataFrame(
        {
            "Kennung": [f"{n:07}" for n in range(rows)],
            "Datum": pd.date_range("2024-01-01", periods=rows, freq="13min").strftime("%d.%m.%Y"),
            "Filiale": [dice.choice(["Köln", "Bonn", "Aachen"]) for _ in range(rows)],
            "Gruppe": [dice.choice("ABC") for _ in range(rows)],
            "Artikel": [f"Artikel {dice.randrange(50)}" for _ in range(rows)],
            "Menge": [dice.randrange(1, 9) for _ in range(rows)],
            "Einzelpreis": [dice.randrange(100, 90000) / 100 for _ in range(rows)],
            "Umsatz": [dice.randrange(100, 900000) / 100 for _ in range(rows)],
            "Rabatt": [dice.choice(["", "5 %"]) for _ in range(rows)],
            "Bemerkung": [dice.choice(["", "eilig"]) for _ in range(rows)],
        }
    )
    frame.to_csv(path, sep=";", decimal=",", index=False, encoding="cp1252")
    return frame


async def test_the_demo_answers_a_csv_that_nobody_here_has_seen(short_path: Path) -> None:
    frame = german_export(short_path / "export.csv", 50_000)
    question = "Which Filiale has the highest Umsatz?"
    code, output = await run(short_path, "demo", "--file", "export.csv", "--question", question, "--out", "out")
    assert code == 0, output
    assert "fixed rules, no AI" in output
    told = json.loads((short_path / "out/demo.json").read_text())
    assert [turn["usage"]["requests"] > 0 for turn in told["turns"]] == [True]
    stages = list(told["turns"][0]["stages"])
    assert stages == [
        "received",
        "parsed",
        "begun",
        "ingested",
        "first model request",
        "answered",
        "composed",
        "sending",
        "sent",
    ]
    text = (short_path / "out/01-reply.html").read_text()
    for sum_ in frame.groupby("Filiale")["Umsatz"].sum():
        assert f"{sum_:,.2f}" in text
    assert "data:image/png;base64," in text
    assert "cid:" not in text


async def test_a_demo_that_the_model_did_not_answer_says_so(short_path: Path) -> None:
    (short_path / "broken.xlsx").write_bytes(b"PK\x03\x04 not really")
    code, output = await run(short_path, "demo", "--file", "broken.xlsx", "--out", "out")
    assert code == 1
    assert "was not answered" in output
    assert "broken.xlsx" in (short_path / "out/01-reply.html").read_text()


async def test_ask_goes_on_in_its_thread(short_path: Path) -> None:
    (short_path / "sales.csv").write_text("region;revenue\nNorth;1,5\nSouth;2,5\nNorth;3,25\n")
    code, output = await run(short_path, "ask", "sales.csv", "--question", "Revenue by region", "--thread", "t")
    assert code == 0, output
    assert "4.75" in output
    code, output = await run(short_path, "ask", "--question", "Only the North", "--thread", "t", "--out", "second")
    assert code == 0, output
    assert "In the first answer it was" in output
    assert "7.25" in output
    assert (short_path / "second/reply.html").exists()


async def test_ask_says_what_it_needs(short_path: Path) -> None:
    code, output = await run(short_path, "ask", "--question", "What?")
    assert code == 2
    assert "name a FILE" in output
    code, output = await run(short_path, "ask", "gone.csv", "--question", "What?")
    assert code == 2
    assert "gone.csv: No such file" in output

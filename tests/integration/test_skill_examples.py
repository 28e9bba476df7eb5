"""Every example in the skills runs on the pinned versions, without a warning, in the house style."""

import csv
import json
import re
from datetime import date, timedelta
from decimal import Decimal
from random import Random

import pytest

from tests.profiled import ROOT, Profiled, german, profiled, python, workspace

REGIONS = ["North", "South", "East", "West", "Nuevo León, $5 _x_ and $7 that is long", ""]
STYLE = str(ROOT / "config" / "matplotlibrc")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    random, place = Random(1), workspace(tmp_path_factory.mktemp("shop"), {})
    with (place / "in" / "orders.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["order_date", "region", "product", "quantity", "revenue", "postcode"])
        for _ in range(400):
            day = date(2024, 3, 1) + timedelta(days=random.randrange(500))
            quantity = random.randint(1, 9)
            amount = german(Decimal(quantity * random.randrange(500, 9000)) / 100)
            region = random.choice(REGIONS)
            writer.writerow([f"{day:%d.%m.%Y}", region, f"p{random.randint(1, 6)}", quantity, amount, "01067"])
    return profiled(place)


def blocks(skill: str, language: str) -> list[str]:
    text = (ROOT / "skills" / skill / "SKILL.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("fonts"))


@pytest.mark.parametrize("skill", ["charts", "profile", "reply", "sql", "tables"])
def test_the_examples_of_a_skill_run(shop: Profiled, skill: str, fonts: str) -> None:
    queries = [f"con.execute({query!r}).df()" for query in blocks(skill, "sql")]
    script = shop.place / "out" / "analysis.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text("\n".join([*blocks(skill, "python"), *queries]), encoding="utf-8")
    done = python(shop.place, "-W", "error", script, MATPLOTLIBRC=STYLE, MPLCONFIGDIR=fonts, MPLBACKEND="Agg")
    assert done.returncode == 0, done.stderr
    if skill == "reply":
        check = python(shop.place, ROOT / "skills" / "reply" / "scripts" / "check.py")
        assert json.loads(check.stdout) == {"ok": True, "faults": [], "warnings": []}
    for path in (shop.place / "out").glob("charts/*.png"):
        assert path.read_bytes()[16:24] == (1280).to_bytes(4, "big") + (760).to_bytes(4, "big"), path

"""The fixed blocks of Python that an analysis.py of the stand-in model is put together from."""

START = '''\
"""Answers one question about one table. Written by fixed rules, no AI."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

'''

TOOLS = r'''
facts, sentences, shown, notes = [], [], [], list(NOTES)
plt.rcParams.update({"text.parse_math": False, "date.converter": "concise"})
for folder in ("out/charts", "out/tables"):
    Path(folder).mkdir(parents=True, exist_ok=True)

def fact(name, code, unit=UNIT):
    """Compute a figure and keep it together with its code; the answer refers to it by name."""
    value = eval(code)
    facts.append({"id": name, "value": getattr(value, "item", lambda: value)(), "unit": unit, "code": code})

def amount(name):
    return "{{" + name + "|" + FORMAT + "}}" + (" " + UNIT if UNIT else "")

def plain(text):
    """Text in which Markdown finds no markup."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)

def chart(axes, title, file):
    axes.set_title(title + SCOPE)
    axes.figure.savefig("out/charts/" + file)
    shown.append(f"![{plain(title + SCOPE)}](charts/{file})")

def table(frame, title, file, **form):
    frame.to_csv("out/tables/" + file, float_format="%.15g", **form)
    shown.append(f"[{plain(title + SCOPE)}](tables/{file})")

# The rows that the question is about.
data = pd.read_parquet(TABLE)
'''
KEEP = """\
for column, values in KEEP.items():
    data = data[data[column].astype("string").str.strip().isin(values)]
"""
MEASURED = 'rows = pd.DataFrame({"value": pd.to_numeric(data[MEASURE], errors="coerce").astype(float)})\n'
COUNTED = 'rows = pd.DataFrame({"value": 1}, index=data.index)\n'
SECOND = 'rows["second"] = pd.to_numeric(data[SECOND], errors="coerce")\n'
DATED = 'rows["when"] = pd.to_datetime(data[DATE], errors="coerce", utc=True).dt.tz_localize(None)\n'
GROUPED = """\
names = data[GROUP].convert_dtypes().astype("string").str.split().str.join(" ").str[:60]
rows["group"] = names.fillna("").replace("", "(blank)")
"""
YEARS = 'rows = rows[rows["when"].dt.year.isin(YEARS)]\n'
TOTAL = """\
fact("rows", "len(rows)", "rows")
fact("total", f'rows["value"].{HOW}()')
"""

# STEP, WHEN and DAY stand for the formats of one grain.
LINE = """
# The course over time.
steps = rows.dropna(subset="when").set_index("when")["value"]
steps = steps.resample("STEP", closed="left", label="left").agg(HOW).dropna()
ax = plt.subplots(layout="constrained")[1]
ax.plot(steps.index, steps.to_numpy(), marker="o" if len(steps) < 40 else "")
ax.set(ylabel=AXIS, ylim=(min(0, 1.1 * steps.min()), None))
ax.yaxis.set_major_formatter("{x:,.10g}")
chart(ax, f"{LABEL} by {GRAIN}", f"by_{GRAIN}.png")
table(steps.rename(AXIS).rename_axis(GRAIN), f"{LABEL} by {GRAIN}", f"by_{GRAIN}.csv", date_format="DAY")
for name, code in {"first": "iloc[0]", "last": "iloc[-1]", "peak": "max()", "low": "min()"}.items():
    fact(name, "steps." + code)
sentences.append(
    f"{plain(LABEL)} went from {amount('first')} {steps.index[0]:WHEN} to {amount('last')} "
    f"{steps.index[-1]:WHEN}; the peak was {steps.idxmax():WHEN} ({amount('peak')}), "
    f"the low {steps.idxmin():WHEN} ({amount('low')})."
)
"""

GROUPS = """
# The groups, largest first.
groups = rows.groupby("group")["value"].agg(["size", HOW]).sort_values(HOW, ascending=False)
by_group = groups[HOW].dropna()
"""
BAR = """\
few = by_group.index if len(by_group) <= 12 else by_group.index[:11]
bars = rows.groupby(rows["group"].where(rows["group"].isin(few), "all others"))["value"].agg(HOW)
bars = bars.reindex([*few, "all others"][: len(by_group)]).dropna()[::-1]
ax = plt.subplots(layout="constrained")[1]
drawn = ax.barh(range(len(bars)), bars.to_numpy())
ax.bar_label(drawn, fmt="{:" + (FORMAT if bars.abs().max() < 1000 else ",.0f") + "}", padding=3)
ax.grid(visible=False)
ax.set(xlabel=AXIS, xticks=[], xmargin=0.2, yticks=range(len(bars)), yticklabels=bars.index)
chart(ax, f"{LABEL} by {BY}", "by_group.png")
"""
TOP = """\
known = by_group.drop("(blank)", errors="ignore")
fact("top", "known.iloc[0]")
fact("top_name", "known.index[0]", "")
sentence = "{{top_name}} is highest with " + amount("top")
"""
SHARES = """\
if rows["value"].sum() > 0:
    fact("top_share", '100 * known.iloc[0] / rows["value"].sum()', "%")
    sentence += ", {{top_share|.1f}} % of the total"
    groups["share"] = (100 * by_group / rows["value"].sum()).round(2)
"""
BOTTOM = """\
if len(known) > 1:
    fact("bottom", "known.iloc[-1]")
    fact("bottom_name", "known.index[-1]", "")
    sentence += "; {{bottom_name}} is lowest with " + amount("bottom")
sentences.append(sentence + ".")
groups.index = groups.index.str.replace(r"^(?=[=+@-])", "'", regex=True).rename(BY)  # text, not formulas
groups.columns = ["rows", AXIS, "share of total (%)"][: groups.shape[1]]
table(groups, f"{LABEL} by {BY}", "by_group.csv")
"""

SCATTER = """
# The two measures against each other; of very many points a random part is drawn.
pairs = rows.dropna(subset=["value", "second"])
part = pairs.sample(min(len(pairs), 5000), random_state=1)
ax = plt.subplots(layout="constrained")[1]
ax.scatter(part["second"], part["value"], s=12, alpha=0.4)
ax.set(xlabel=ACROSS, ylabel=AXIS)
ax.xaxis.set_major_formatter("{x:,.10g}")
ax.yaxis.set_major_formatter("{x:,.10g}")
chart(ax, f"{LABEL} against {ACROSS}", "scatter.png")
fact("pairs", "len(pairs)", "rows")
fact("correlation", 'pairs["value"].corr(pairs["second"])', "")
r = facts[-1]["value"]
strength = "hardly any" if abs(r) < 0.1 else "a weak" if abs(r) < 0.3 else "a moderate" if abs(r) < 0.7 else "a strong"
sign = "" if abs(r) < 0.1 else "positive " if r > 0 else "negative "
sentences.append(
    f"{plain(LABEL)} and {plain(ACROSS)} show {strength} {sign}linear relation: "
    "their correlation is {{correlation|.2f}} over {{pairs|,.0f}} rows."
)
"""

HISTOGRAM = """
# How the values are spread.
ax = plt.subplots(layout="constrained")[1]
ax.hist(rows["value"].dropna(), bins=30)
ax.set(xlabel=AXIS, ylabel="rows")
ax.xaxis.set_major_formatter("{x:,.10g}")
chart(ax, f"Distribution of {LABEL}", "histogram.png")
for name in ("min", "median", "mean", "max"):
    fact(name, f'rows["value"].{name}()')
sentences.append(
    f"Half of the rows have a value of at most {amount('median')}; the average is {amount('mean')}, "
    f"and the values run from {amount('min')} to {amount('max')}."
)
"""

SUMMARY = """
# What can be said of the values as a whole.
summary = rows[["value"]].describe().set_axis([AXIS], axis=1).rename_axis("figure")
table(summary, f"{LABEL} in figures", "summary.csv")
"""

BASIS = """
# What the answer rests on.
basis = f"{plain(OVERALL + SCOPE)}: {amount('total')}"
"""
FROM = """\
basis += ", from {{rows|,.0f}} rows"
"""
SPAN = """\
basis += f", dated {rows['when'].min():%Y-%m-%d} to {rows['when'].max():%Y-%m-%d}"
"""
BLANKS = """\
if rows["value"].isna().any():
    fact("blank", 'rows["value"].isna().sum()', "rows")
    notes.append("Rows without a value in that column, which add nothing: {{blank|,.0f}}.")
"""
COPIES = """\
if data.duplicated().any():
    fact("copies", "data.duplicated().sum()", "rows")
    notes.append("Rows that are exact copies of another, counted like any row: {{copies|,.0f}}.")
"""
EARLIER = """\
if Path(EARLIER).exists():
    earlier = {line["id"]: line["value"] for line in map(json.loads, Path(EARLIER).open(encoding="utf-8"))}
    fact("earlier_total", 'earlier["total"]')
    basis += f". In the first answer it was {amount('earlier_total')}"
"""
EARLIER_SHARE = """\
    if earlier["total"] > 0:
        fact("share_of_earlier", '100 * rows["value"].sum() / earlier["total"]', "%")
        basis += ", so this is {{share_of_earlier|.1f}} % of it"
"""
END = """\
answer = [" ".join(sentences), *shown, basis + ".", "\\n".join(f"- {note}" for note in notes)]
answer = "\\n\\n".join([*answer, "*Worked out by fixed rules, no AI.*\\n"])
Path("out/answer.md").write_text(answer, encoding="utf-8")
Path("out/facts.jsonl").write_text("".join(json.dumps(f, allow_nan=False) + "\\n" for f in facts), encoding="utf-8")
print(f"out/answer.md with {len(facts)} figures and {len(shown)} charts and tables")
"""

TOTALS = '''\
"""Counts the rows of one table and sums its number columns. Written by fixed rules, no AI."""

import json
from pathlib import Path

import pandas as pd

{constants}
Path("out/tables").mkdir(parents=True, exist_ok=True)
data = pd.read_parquet(TABLE)
numbers = data.apply(pd.to_numeric, errors="coerce").dropna(axis=1, how="all")
totals = numbers.agg(["count", "sum", "mean", "min", "max"]).T.round(6).rename_axis("column")
totals.to_csv("out/tables/totals.csv")
answer = """\\
The analysis that the rules chose did not succeed on this data. The table has {{{{rows|,.0f}}}} rows; below are the
totals of its number columns.

[Totals of the number columns](tables/totals.csv)

*Worked out by fixed rules, no AI.*
"""
Path("out/answer.md").write_text(answer, encoding="utf-8")
rows = {{"id": "rows", "value": len(data), "unit": "rows", "code": "len(data)"}}
Path("out/facts.jsonl").write_text(json.dumps(rows) + "\\n", encoding="utf-8")
'''

LOOK = """\
import json

import pandas as pd

{constants}
data = pd.read_parquet(TABLE, columns=COLUMNS)
print(json.dumps({{name: sorted(data[name].dropna().astype(str).unique()) for name in COLUMNS}}))
"""

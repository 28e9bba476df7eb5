"""The words that the fixed rules know, each in the form that `reading.spoken` gives it."""


def _words(*lines: str) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


MEASURES = _words(
    "revenue turnover umsatz sale amount betrag total profit income cost value spend price preis",
    "quantity qty menge unit volume score count",
)
"""Words in the names of columns worth computing, best first."""

GROUPS = _words("region category product country segment department channel type group city status")
"""Words in the names of columns worth grouping by, best first."""

LABELS = frozenset(
    _words("id no nr number code zip plz postcode postal year jahr key index row phone lat lon latitude longitude")
)
"""Words in the names of columns whose numbers are names: neither summed nor averaged."""

MONEY = frozenset(
    _words("revenue turnover umsatz sale amount betrag profit income cost value spend price preis budget fee")
)
NOT_SUMMED = frozenset(
    _words(
        "price preis rate ratio percent pct share temperature temp age score rating height length latitude longitude",
        "average mean speed grade",
    )
)
TIME = frozenset(
    _words(
        "month monthly week weekly daily year yearly annual quarter quarterly",
        "trend develop development developed season seasonal growth grow grew evolve evolved",
    )
)
GRAINS = {
    **dict.fromkeys(("by day", "per day", "each day", "every day", "daily"), "day"),
    **dict.fromkeys(("week", "weekly"), "week"),
    **dict.fromkeys(("month", "monthly"), "month"),
    **dict.fromkeys(("quarter", "quarterly"), "quarter"),
    **dict.fromkeys(("by year", "per year", "each year", "every year", "yearly", "annual"), "year"),
}
HOWS = {"average": "mean", "mean": "mean", "avg": "mean", "typical": "median", "median": "median"}
EXTREMES = {
    **dict.fromkeys(("maximum", "max", "highest", "largest", "biggest"), "max"),
    **dict.fromkeys(("minimum", "min", "lowest", "smallest"), "min"),
}
OVER_TIME = " over time "
COUNTS = (" how many ", " number of ", " count ")
SPREAD = frozenset(_words("distribution distributed histogram spread"))
RELATION = frozenset(_words("relation relationship related correlation correlate correlated depend scatter versus vs"))
BY = frozenset(_words("by per each every which across"))
UNITS = {
    **dict.fromkeys(("eur", "euro", "€"), "EUR"),
    **dict.fromkeys(("usd", "dollar"), "USD"),
    **dict.fromkeys(("gbp", "£"), "GBP"),
    **dict.fromkeys(("percent", "pct", "%"), "%"),
    **{unit: unit for unit in ("kg", "km")},
    "chf": "CHF",
}

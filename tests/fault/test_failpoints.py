"""A handful of the points at which the daemon may fail; `make fault` tries all of them."""

import pytest

from tests.fault.points import Fault, Point
from tests.fault.stage import Case, stage

pytestmark = pytest.mark.timeout(300)

POINTS: dict[tuple[int, bool], list[tuple[str, int, Fault, int]]] = {
    (1, False): [
        ("during FETCH", 1, "error", 0),
        ("after jobs.take_over", 1, "kill", 0),
        ("after jobs.save", 1, "temporary", 0),
        ("before blobs.get", 1, "error", 0),
        ("before jobs.claim:delivery", 1, "error", 0),
        ("after submission.send", 3, "kill", 1),
        ("after jobs.finish", 1, "kill", 0),
    ],
    (2, False): [("after jobs.hand_over", 3, "hang", 0), ("after jobs.claim:turns", 1, "hang", 0)],
    (1, True): [("mid turn", 1, "kill", 0)],
}
"""By the number of hosts and whether the agent is the real one: where, for the how-manieth time, what, and how often a
reply is then handed over once more."""


@pytest.mark.parametrize(("hosts", "real"), POINTS)
async def test_what_fails_is_mended_and_every_mail_has_one_reply(hosts: int, real: bool) -> None:
    async with stage(hosts=hosts, real=real) as at:
        for where, nth, fault, repeats in POINTS[hosts, real]:
            row = await at.run(Case(Point(where, nth), fault, real))
            assert row.good(), row
            assert row.repeats == repeats, row

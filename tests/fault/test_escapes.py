"""Every way out is refused by what is meant to refuse it, and works without that: a test that cannot fail is none."""

import pytest

from tests.fault.escapes.survey import GROUPS, Finding, findings

ALL = [(group, each) for group, (escapes, _) in GROUPS.items() for each in escapes]
CASES = [pytest.param(group, each.name, id=each.name) for group, each in ALL]
SHOWN = [pytest.param(group, each.name, id=each.name) for group, each in ALL if not each.without.startswith("-")]
FOUND: dict[str, dict[str, Finding]] = {}
"""Attempts that cannot disturb each other share a sandbox: a group runs once."""


async def found(group: str, name: str) -> Finding:
    if group not in FOUND:
        FOUND[group] = {}  # it runs once, also when it fails
        FOUND[group] = {each.name: each for each in await findings(group)}
    return FOUND[group][name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("group", "name"), CASES)
async def test_refused(group: str, name: str) -> None:
    one = await found(group, name)
    assert one.is_refused, f"{one.tries} It was to end with {one.refused!r}, and ended with {one.inside!r}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("group", "name"), SHOWN)
async def test_works_without_what_refuses_it(group: str, name: str) -> None:
    one = await found(group, name)
    if one.is_left_out:
        pytest.skip(f"this machine refuses it to everybody: {one.outside}")
    assert one.works, f"{one.tries} Run without what refuses it ({one.without}), it ended with {one.outside!r}"


def test_there_are_many_and_each_has_a_name_of_its_own() -> None:
    assert len(ALL) >= 40
    assert len({each.name for _, each in ALL}) == len(ALL)

"""Two short seeds of `make chaos`."""

import pytest

from tests.fault.chaos import Size, run

SIZE = Size(threads=8, mails=3, storm=6.0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [101, 102])
async def test_no_storm_loses_a_mail_or_answers_it_twice(seed: int) -> None:
    result = await run(seed, SIZE, 200)
    assert result.good(), result
    assert result.verdict.mails == SIZE.threads * SIZE.mails
    assert result.again > 0

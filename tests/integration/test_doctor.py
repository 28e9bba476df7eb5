"""What `mailagent doctor` says of the sandbox, and of stores that are elsewhere."""

from pathlib import Path

import pytest

from mailagent import commands, config
from mailagent.adapters import cgroups
from tests.daemon import SECRETS
from tests.integration.test_redis_losses import a_server
from tests.listening import free_port
from tests.settings import settings_text


async def test_a_redis_that_is_away_or_forgets_is_named(short_path: Path) -> None:
    async with a_server(short_path) as server:
        assert (await commands.diagnose_redis(server.url)).mend == ""
    async with a_server(short_path, "--appendonly", "no") as server:
        assert "appendonly" in (await commands.diagnose_redis(server.url)).mend
    assert "127.0.0.1" in (await commands.diagnose_redis(f"redis://127.0.0.1:{free_port()}")).mend


async def test_a_bucket_that_is_not_there_is_named(short_path: Path, bucket: str) -> None:
    text = settings_text(short_path, model_url="http://127.0.0.1:9")
    for place, mend in ((bucket, ""), ("s3://elsewhere", "storage.blobs: s3://elsewhere cannot be used")):
        there = text.replace("state_dir", f'blobs = "{place}"\nstate_dir')
        found = await commands.diagnose_files(config.load(there, SECRETS, {}))
        assert found.mend.rpartition(": ")[0].startswith(mend)
        assert bool(found.mend) == bool(mend)


async def test_the_sandbox_is_tried_in_a_control_group(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the daemon would, where a subtree was handed over: here, one in which no group can be made."""
    monkeypatch.setattr(cgroups, "delegated", lambda: short_path / "nowhere")
    settings = config.load(settings_text(short_path, model_url="http://127.0.0.1:9"), SECRETS, {})
    found = {check.name: check.mend for check in await commands.diagnose(settings)}
    assert "no control group for a sandbox" in found["sandbox"]

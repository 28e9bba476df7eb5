"""A policy for sandboxes under test."""

from pathlib import Path
from typing import Any

from mailagent import config
from mailagent.adapters import bubblewrap, host
from mailagent.core.policy import Policy
from tests.settings import settings_text


def policy_at(place: Path, **sandbox: Any) -> Policy:
    """What the daemon would give a thread whose workspace lies below `place`, with these settings of [sandbox]."""
    text = settings_text(place, model_url="http://127.0.0.1:1")
    settings = config.load(text, {"MAILAGENT_IMAP_PASSWORD": "x"}, {})
    bubblewrap.write_etc(place / "etc")
    for name in ("in", "work", "out"):
        (place / "files" / name).mkdir(parents=True)
    limits = host.limits(config.Sandbox(**sandbox))
    return Policy(host.parts(settings, place / "etc"), str(place / "files"), "", limits)

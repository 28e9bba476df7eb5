"""Tests that root started go on as an unprivileged user, as the daemon does: no sandbox runs under uid 0.

Loaded by `-p`, before pytest looks at anything."""

import os
import sys
import tempfile
from pathlib import Path

from mailagent.adapters.host import give_up_root

ROOT = Path(__file__).resolve().parent.parent

if os.geteuid() == 0:
    home = Path(tempfile.mkdtemp(prefix="mailagent-tests-"))
    home.chmod(0o755)
    os.environ |= {
        "HYPOTHESIS_STORAGE_DIRECTORY": str(home / "hypothesis"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(home),
    }
    give_up_root([home], [ROOT], [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *sys.argv[1:]])

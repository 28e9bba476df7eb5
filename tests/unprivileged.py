"""Tests that root started go on as an unprivileged user, as the daemon does: no sandbox runs under uid 0.

Loaded by `-p`, before pytest looks at anything."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from mailagent.adapters.host import give_up_root

ROOT = Path(__file__).resolve().parent.parent


def go_on(*command: str) -> None:
    """Run this Python command as somebody else and end with its exit code; returns at once when we are not root."""
    if os.geteuid() != 0:
        return
    home = Path(tempfile.mkdtemp(prefix="mailagent-tests-"))
    home.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.environ |= {
            "HYPOTHESIS_STORAGE_DIRECTORY": str(home / "hypothesis"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(home),
        }
        give_up_root(home, [home], [ROOT], [sys.executable, *command])
    _, status = os.waitpid(child, 0)
    shutil.rmtree(home, ignore_errors=True)
    os._exit(os.waitstatus_to_exitcode(status))


if "pytest" in sys.modules:
    go_on("-m", "pytest", "-p", "no:cacheprovider", *sys.argv[1:])

"""The files in systemd/, read by systemd's own programs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mailagent.adapters import systemd
from mailagent.adapters.cgroups import WANTED
from mailagent.config import SECRETS, Agent, Storage
from mailagent.core.errors import ConfigError

SYSTEMD = Path(__file__).parents[2] / "systemd"


def told(*command: str | Path) -> str:
    """What the program says, having ended well."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


def settings(name: str) -> set[str]:
    """The values of a key of the unit, one by one."""
    unit = (SYSTEMD / "mailagent.service").read_text()
    return {word for line in re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE) for word in line.split()}


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program in its place that exists here: verify looks for it."""
    text = (SYSTEMD / "mailagent.service").read_text()
    copy = tmp_path / "mailagent.service"
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text, flags=re.MULTILINE))
    return copy


def test_the_unit_is_understood(unit: Path) -> None:
    assert told("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit) == ""


def test_the_unit_is_tight(unit: Path) -> None:
    said = told("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", unit)
    assert "Overall exposure level for mailagent.service" in said


def test_bubblewrap_keeps_what_it_needs() -> None:
    assert settings("RestrictNamespaces") == {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"}
    assert settings("RestrictAddressFamilies") >= {"AF_UNIX", "AF_NETLINK"}
    assert settings("SystemCallFilter") >= {"@system-service", "@mount", "sethostname"}
    breaking = "ProtectHostname|ProtectKernelTunables|ProcSubset|ProtectControlGroups|MemoryDenyWriteExecute"
    assert settings(f"(?:{breaking})") == set()


def test_control_groups_are_handed_over() -> None:
    assert settings("Delegate") == set(WANTED)


def test_a_stopping_daemon_has_time_to_drain() -> None:
    # First its turns, then its outbox.
    (seconds,) = settings("TimeoutStopSec")
    assert float(seconds.removesuffix("s")) > 2 * Agent().drain_seconds


def test_credentials_are_the_ones_that_the_daemon_reads() -> None:
    names = {file for _, file in SECRETS.values()}
    assert {loaded.partition(":")[0] for loaded in settings("LoadCredential")} == names
    assert {given.partition(":")[0] for given in settings("SetCredential")} == names


def test_directories_are_the_ones_in_the_settings() -> None:
    assert {f"/var/lib/{name}" for name in settings("StateDirectory")} == {Storage().state_dir}
    assert {f"/run/{name}" for name in settings("RuntimeDirectory")} == {Storage().runtime_dir}


def test_the_user_is_made(tmp_path: Path) -> None:
    said = told("systemd-sysusers", f"--root={tmp_path}", "--dry-run", SYSTEMD / "mailagent.sysusers")
    assert set(re.findall(r"Creating user '(\w+)'", said)) == settings("User")


def test_secrets_lie_in_a_closed_directory(tmp_path: Path) -> None:
    told("systemd-tmpfiles", "--create", f"--root={tmp_path}", SYSTEMD / "mailagent.tmpfiles")
    directory = tmp_path / "etc" / "mailagent" / "credentials"
    assert directory.stat().st_mode & 0o777 == 0o700
    paths = {Path(loaded.partition(":")[2]) for loaded in settings("LoadCredential")}
    assert {path.parent for path in paths} == {Path("/") / directory.relative_to(tmp_path)}


def test_a_credential_is_utf_8_with_a_mark_or_without(tmp_path: Path) -> None:
    (tmp_path / "imap-password").write_bytes("Zürich\n".encode())
    (tmp_path / "smtp-password").write_bytes("Zürich\r\n".encode("utf-8-sig"))
    found = systemd.credentials({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert found == {"imap-password": "Zürich", "smtp-password": "Zürich"}
    (tmp_path / "smtp-password").write_bytes("Zürich\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="smtp-password is not UTF-8") as caught:
        systemd.credentials({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert "rich" not in str(caught.value)

"""This machine: where our parts lie on it, whether it has what we need, and how a start by root gives root up."""

import ctypes
import os
import pwd
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mailagent.config import Config, Sandbox
from mailagent.core.errors import ConfigError
from mailagent.core.policy import Host, Limits

FALLBACK_UID = 64923
"""Runs what root started where no user `mailagent` exists: in systemd's range for users that are made up on the fly."""

CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True, slots=True)
class Check:
    """One thing the daemon needs: "" in `mend` when it is there, and then perhaps more about it."""

    name: str
    mend: str
    words: str = ""


def share() -> Path:
    """Where skills/ and config/ lie: in the checkout, or inside the installed package."""
    package = Path(__file__).resolve().parent.parent
    return package / "share" if (package / "share").is_dir() else package.parent


def parts(config: Config) -> Host:
    """Where the parts lie that sandboxes see. ConfigError naming what is missing."""
    faults = [check.mend for check in checks(config) if check.mend]
    if faults:
        raise ConfigError(*faults)
    analysis = analysis_environment(config)
    fonts = sorted((analysis / "share" / "mplcache").glob("fontlist-*.json"))
    return Host(
        bwrap=str(shutil.which(config.sandbox.bwrap)),
        cli=str(bundled_cli()),
        analysis=str(analysis),
        skills=str(share() / "skills"),
        plugin_manifest=str(share() / "config" / "plugin.json"),
        chart_style=str(share() / "config" / "matplotlibrc"),
        font_cache=str(fonts[0]) if fonts else "",
        runsc=str(shutil.which(config.sandbox.runsc)) if config.sandbox.backend == "gvisor" else "",
    )


def limits(sandbox: Sandbox) -> Limits:
    """The limits that these settings ask for."""
    return Limits(
        memory_bytes=sandbox.memory_mb << 20,
        tmp_bytes=sandbox.tmp_mb << 20,
        home_bytes=sandbox.home_mb << 20,
        disk_bytes=sandbox.disk_mb << 20,
        files=sandbox.files,
        processes=sandbox.processes,
        cpus=sandbox.cpus,
        command_seconds=sandbox.command_seconds,
    )


def checks(config: Config) -> Sequence[Check]:
    """What can be told without starting anything."""
    gvisor = config.sandbox.backend == "gvisor"
    return (
        _program("bubblewrap", config.sandbox.bwrap, "apt-get install bubblewrap"),
        *([_program("gVisor", config.sandbox.runsc, "apt-get install runsc")] if gvisor else []),
        *([] if config.redis.url else [_program("redis-server", config.redis.server, "apt-get install redis-server")]),
        _analysis(config),
        Check("Claude Code CLI", "" if bundled_cli().is_file() else "reinstall claude-agent-sdk: its CLI is missing"),
        Check("skills", "" if (share() / "skills").is_dir() else "reinstall mailagent: its skills are missing"),
    )


def analysis_environment(config: Config) -> Path:
    """The environment that code in the sandbox runs in."""
    if config.sandbox.analysis:
        return Path(config.sandbox.analysis)
    beside = Path(sys.prefix).parent
    return beside / "analysis" if (beside / "analysis" / "bin").is_dir() else beside / ".analysis"


def bundled_cli() -> Path:
    """The CLI that came with the SDK's wheel."""
    spec = find_spec("claude_agent_sdk")
    return Path(str(spec.origin)).parent / "_bundled" / "claude" if spec else Path("claude")


def _program(name: str, program: str, install: str) -> Check:
    return Check(name, "" if shutil.which(program) else f"{name} is missing: {install}")


def _analysis(config: Config) -> Check:
    python = analysis_environment(config) / "bin" / "python"
    if not python.exists():
        return Check("analysis environment", f"the analysis environment is missing ({python}): make setup")
    if not python.resolve().is_relative_to("/usr"):
        return Check("analysis environment", f"{python} is not made from a Python under /usr, which the sandbox needs")
    return Check("analysis environment", "")


def give_up_root(home: Path, writable: Sequence[Path], readable: Sequence[Path], command: Sequence[str]) -> None:
    """Start over with `command` as an unprivileged user when we are root; returns at once for everybody else.

    Code in a sandbox under uid 0 could write host files that belong to uid 0. The user is the owner of `home`, else
    `mailagent`, else a number nobody has; `writable` directories are made and given to it. Directories that are closed
    to it on the way to what we must read (a checkout below /root) are replaced, in a mount namespace of our own, by
    empty ones that hold only that."""
    if os.geteuid() != 0:
        return
    uid, gid = _user(home)
    for directory in writable:
        directory.mkdir(parents=True, exist_ok=True)
        os.chown(directory, uid, gid)
    readable = [path for path in readable if path.exists()]  # what is missing is told by checks(), later
    for path in readable:
        if not _may_read(path.stat(), uid, gid):
            raise ConfigError(f"{path} is closed to uid {uid}, and mailagent does not stay root: chmod -R go+rX {path}")
    needed = [path.resolve() for path in (*writable, *readable, Path(sys.base_prefix))]
    closed = {top: [path for path in needed if path.is_relative_to(top)] for top in _closed(needed)}
    if closed:
        _open_up(closed)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.execve(command[0], list(command), {**os.environ, "HOME": str(home)})  # noqa: S606


def _user(directory: Path) -> tuple[int, int]:
    if directory.exists() and directory.stat().st_uid != 0:
        return directory.stat().st_uid, directory.stat().st_gid
    try:
        entry = pwd.getpwnam("mailagent")
    except KeyError:
        return FALLBACK_UID, FALLBACK_UID
    return entry.pw_uid, entry.pw_gid


def _may_read(info: os.stat_result, uid: int, gid: int) -> bool:
    bit = 0o400 if info.st_uid == uid else 0o040 if info.st_gid == gid else 0o004
    return bool(info.st_mode & bit)


def _closed(paths: Sequence[Path]) -> Iterator[Path]:
    """The topmost directory on the way to each path that others may not pass through."""
    seen = set()
    for path in paths:
        for directory in reversed(path.parents):
            if not directory.stat().st_mode & 0o001:
                if directory not in seen:
                    seen.add(directory)
                    yield directory
                break


def _open_up(closed: dict[Path, list[Path]]) -> None:
    if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
        raise ConfigError(f"{next(iter(closed))} is closed to other users: move mailagent to /opt, or do not be root")
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    for top, paths in closed.items():
        handles = {path: os.open(path, os.O_PATH) for path in paths}
        _mount("tmpfs", str(top), "tmpfs", 0, "mode=0755,size=1m")
        for path, handle in handles.items():
            _place(path, handle)


def _place(path: Path, handle: int) -> None:
    """Show what the handle holds at its old path again."""
    if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112 - a handle, not a path
        path.mkdir(parents=True, exist_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    _mount(f"/proc/self/fd/{handle}", str(path), "", MS_BIND | MS_REC)
    os.close(handle)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2) itself: mount(8) would look up the old path behind a handle."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)

"""What a sandbox may see and do, as the arguments of bubblewrap: nothing else decides it."""

from collections.abc import Mapping
from dataclasses import dataclass

WORKSPACE = "/srv"
"""Where the thread's workspace is inside; the same on every host and for every thread, so that a session can move."""

ANALYSIS = "/opt/analysis"
PLUGIN = "/opt/mailagent"
CLI = "/opt/claude/claude"
MODEL_SOCKET = "/run/model.sock"
HOME = "/home/agent"

SKILLS = ("reply", "profile", "tables", "charts", "sql")
"""The skills that are offered to the model, in this order."""

PROFILE_SCRIPT = f"{PLUGIN}/skills/profile/scripts/profile_tables.py"


@dataclass(frozen=True, slots=True)
class Host:
    """Where on this host the parts lie that every sandbox sees, all read-only."""

    bwrap: str
    cli: str
    analysis: str
    skills: str
    plugin_manifest: str
    chart_style: str
    font_cache: str
    """The prebuilt matplotlib font list; "" when there is none."""
    etc: str
    """A directory with passwd, group, hosts and nsswitch.conf made for the sandbox."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One sandbox: the host's parts, the one workspace it may write, its model socket ("" for none), and its limits."""

    host: Host
    workspace: str
    model_socket: str
    tmp_bytes: int
    home_bytes: int
    command_seconds: float


def arguments(policy: Policy) -> list[str]:
    """The bubblewrap command up to, but without, the final `--remount-ro / -- COMMAND`.

    No network, no host files but those of `Host` read-only, own pid, ipc, uts and user namespace, no capabilities, no
    nested user namespaces, an empty environment, sized tmpfs. /proc/sys is read-only because a file there belongs to
    the host's uid 0 whatever the namespace says; in/, work/ and out/ are mounts of their own, so that code inside
    cannot replace them by links that the daemon would follow."""
    return [
        policy.host.bwrap,
        *_isolation(),
        *_system(policy.host),
        *_memory(policy),
        *_fonts(policy.host),
        *_workspace(policy.workspace),
        *(["--ro-bind", policy.model_socket, MODEL_SOCKET] if policy.model_socket else []),
        *(flag for name, value in environment(policy).items() for flag in ("--setenv", name, value)),
        "--chdir",
        WORKSPACE,
    ]


def environment(policy: Policy) -> Mapping[str, str]:
    """Every variable inside, beside CLAUDE_CONFIG_DIR; the key is a placeholder, the gateway adds the real one."""
    milliseconds = str(int(policy.command_seconds * 1000))
    return {
        "PATH": f"{ANALYSIS}/bin:/usr/bin:/bin",
        "HOME": HOME,
        "USER": "agent",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TMPDIR": "/tmp",  # noqa: S108 - a tmpfs of the sandbox's own
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": f"{HOME}/.matplotlib",
        "MATPLOTLIBRC": f"{PLUGIN}/matplotlibrc",
        "ANTHROPIC_UNIX_SOCKET": MODEL_SOCKET,
        "ANTHROPIC_BASE_URL": "http://model",
        "ANTHROPIC_API_KEY": "placeholder",
        "BASH_DEFAULT_TIMEOUT_MS": milliseconds,
        "BASH_MAX_TIMEOUT_MS": milliseconds,
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        "CLAUDE_CODE_MAX_RETRIES": "3",
        "DISABLE_AUTOUPDATER": "1",
    }


def _isolation() -> list[str]:
    return [
        *("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
        *("--new-session", "--die-with-parent", "--clearenv"),
    ]


def _system(host: Host) -> list[str]:
    links = [part for name in ("bin", "sbin", "lib", "lib64") for part in ("--symlink", f"usr/{name}", f"/{name}")]
    return [
        *("--ro-bind", "/usr", "/usr"),
        *links,
        *("--ro-bind", host.etc, "/etc"),
        *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"),
        *("--dev", "/dev"),
        *("--ro-bind", host.analysis, ANALYSIS),
        *("--ro-bind", host.cli, CLI),
        *("--ro-bind", host.skills, f"{PLUGIN}/skills"),
        *("--ro-bind", host.plugin_manifest, f"{PLUGIN}/.claude-plugin/plugin.json"),
        *("--ro-bind", host.chart_style, f"{PLUGIN}/matplotlibrc"),
    ]


def _memory(policy: Policy) -> list[str]:
    return [
        *("--size", str(policy.tmp_bytes), "--tmpfs", "/tmp"),  # noqa: S108
        *("--size", str(policy.tmp_bytes), "--tmpfs", "/dev/shm"),  # noqa: S108
        *("--size", str(policy.home_bytes), "--tmpfs", HOME),
        *("--remount-ro", "/dev"),
    ]


def _fonts(host: Host) -> list[str]:
    if not host.font_cache:
        return []
    name = host.font_cache.rpartition("/")[2]
    return ["--ro-bind", host.font_cache, f"{HOME}/.matplotlib/{name}"]


def _workspace(path: str) -> list[str]:
    inner = [part for name in ("work", "out") for part in ("--bind", f"{path}/{name}", f"{WORKSPACE}/{name}")]
    return ["--bind", path, WORKSPACE, *inner, "--ro-bind", f"{path}/in", f"{WORKSPACE}/in"]

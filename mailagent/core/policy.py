"""What a sandbox may see and use, as arguments of bubblewrap, limits and settings of a control group: nothing else
decides it, but core/syscalls.py which system calls its code may make."""

from collections.abc import Mapping
from dataclasses import dataclass

WORKSPACE = "/srv"
"""Where the thread's workspace is inside; the same on every host and for every thread, so that a session can move."""

ANALYSIS = "/opt/analysis"
PLUGIN = "/opt/mailagent"
CLI = "/opt/claude/claude"
MODEL_SOCKET = "/run/model.sock"
HOME = "/home/agent"
TMP = "/tmp"  # noqa: S108 - a tmpfs of the sandbox's own
SHM = "/dev/shm"  # noqa: S108
LIMITED = "/etc/limited"

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
    runsc: str = ""
    """gVisor's program, where its kernel is to stand between a sandbox and this host's; "" for none."""
    control_groups: str = ""
    """The subtree of control groups in which each sandbox gets one; "" where none was delegated."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What all processes of one sandbox together may take; `command_seconds` is for one command of the agent."""

    memory_bytes: int
    tmp_bytes: int
    home_bytes: int
    disk_bytes: int
    files: int
    processes: int
    cpus: float
    command_seconds: float


TOOLS_SHARE = 0.75
"""How much of the whole one process may take of memory, one file of the disk, and all commands of the agent of the
processes: they fail, and the agent goes on."""

OPEN_FILES = 4096
SIGNALS = 1024
"""Queued signals and timers: without a limit of its own, a sandbox could use up those of the daemon's user."""
CPU_PERIOD = 100_000
"""Microseconds, cgroup-v2's default for cpu.max."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One sandbox: the host's parts, the one workspace it may write, its model socket ("" for none), its limits, and
    how many tokens its model can read at once."""

    host: Host
    workspace: str
    model_socket: str
    limits: Limits
    context_tokens: int = 200_000


def arguments(policy: Policy, etc: str) -> list[str]:
    """The bubblewrap command up to, but without, the final `--remount-ro / -- COMMAND`. `etc` is a directory with
    passwd, group, hosts, nsswitch.conf and `limited`, made for this sandbox.

    No network, no host files but those of `Host` read-only, own pid, ipc, uts and user namespace, no capabilities, no
    nested user namespaces, an empty environment, sized tmpfs. /proc/sys is read-only because a file there belongs to
    the host's uid 0 whatever the namespace says; in/, work/ and out/ are mounts of their own, so that code inside
    cannot replace them by links that the daemon would follow. /dev/full reads like /dev/zero, but is no way to memory
    that several processes share and none has. What holds them, where the CLI and all scripts start, is
    read-only: programs load files by their name from there (`.env`, `matplotlibrc`, `CLAUDE.md`), in later turns
    too."""
    return [
        policy.host.bwrap,
        *(_isolation_for_gvisor() if policy.host.runsc else _isolation()),
        *_system(policy.host, etc),
        *_memory(policy.limits),
        *_fonts(policy.host),
        *_workspace(policy.workspace),
        *(["--ro-bind", policy.model_socket, MODEL_SOCKET] if policy.model_socket else []),
        *(flag for name, value in environment(policy).items() for flag in ("--setenv", name, value)),
        "--chdir",
        WORKSPACE,
    ]


def bounds(policy: Policy) -> list[str]:
    """The command that starts every other one in the sandbox, with limits that nothing below it can raise again.

    It must run inside: the number of processes, and that of signals, is counted for each user namespace (since Linux
    5.14), but against the limit that the process had when it made the namespace, too, with all of the daemon's user.
    gVisor queues signals itself, and knows no such limit."""
    limits = policy.limits
    return [
        "/usr/bin/prlimit",
        f"--nproc={limits.processes}",
        f"--fsize={int(limits.disk_bytes * TOOLS_SHARE)}",
        f"--nofile={OPEN_FILES}",
        *([] if policy.host.runsc else [f"--sigpending={SIGNALS}"]),
        "--core=0",
        "--",
    ]


def tool_limits(limits: Limits) -> str:
    """Options of bash's ulimit for each command of the agent: data in KB, processes, CPU seconds."""
    data = int(limits.memory_bytes * TOOLS_SHARE) >> 10
    seconds = max(1, int(limits.command_seconds * limits.cpus))
    return f"-d {data} -u {int(limits.processes * TOOLS_SHARE)} -t {seconds}"


def control(limits: Limits) -> Mapping[str, str]:
    """The files of the sandbox's control group, and what is written to them."""
    return {
        "memory.max": str(limits.memory_bytes),
        "memory.swap.max": "0",
        "pids.max": str(limits.processes),
        "cpu.max": f"{int(limits.cpus * CPU_PERIOD)} {CPU_PERIOD}",
    }


def environment(policy: Policy) -> Mapping[str, str]:
    """Every variable inside, beside CLAUDE_CONFIG_DIR; the key is a placeholder, the gateway adds the real one.

    Told no window, the CLI sums a conversation up only when the server has refused it as too long, in words that it
    knows; and for a model that it does not know, only near a million tokens. The first variable is good for windows
    from 100,000 on, the second for models that it does not know."""
    milliseconds = str(int(policy.limits.command_seconds * 1000))
    return {
        "PATH": f"{ANALYSIS}/bin:/usr/bin:/bin",
        "HOME": HOME,
        "USER": "agent",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TMPDIR": TMP,
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
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(policy.context_tokens),
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(policy.context_tokens),
        "CLAUDE_CODE_MAX_RETRIES": "3",
        "CLAUDE_CODE_SHELL_PREFIX": LIMITED,
        "DISABLE_AUTOUPDATER": "1",
        "TOOL_LIMITS": tool_limits(policy.limits),
    }


def _isolation() -> list[str]:
    return [
        *("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
        *("--new-session", "--die-with-parent", "--clearenv"),
    ]


def _isolation_for_gvisor() -> list[str]:
    """What runs here is gVisor, which divides its own parts further; core/gvisor.py says what code in it may do."""
    return [
        *("--unshare-all", "--unshare-user", "--cap-add", "ALL"),
        *("--uid", "0", "--gid", "0", "--hostname", "sandbox"),
        *("--new-session", "--die-with-parent", "--clearenv"),
    ]


def _system(host: Host, etc: str) -> list[str]:
    links = [part for name in ("bin", "sbin", "lib", "lib64") for part in ("--symlink", f"usr/{name}", f"/{name}")]
    return [
        *("--ro-bind", "/usr", "/usr"),
        *links,
        *("--ro-bind", etc, "/etc"),
        *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"),
        *("--dev", "/dev", "--dev-bind", "/dev/full", "/dev/zero"),
        *("--ro-bind", host.analysis, ANALYSIS),
        *("--ro-bind", host.cli, CLI),
        *("--ro-bind", host.skills, f"{PLUGIN}/skills"),
        *("--ro-bind", host.plugin_manifest, f"{PLUGIN}/.claude-plugin/plugin.json"),
        *("--ro-bind", host.chart_style, f"{PLUGIN}/matplotlibrc"),
    ]


def _memory(limits: Limits) -> list[str]:
    return [
        *("--size", str(limits.tmp_bytes), "--tmpfs", TMP),
        *("--size", str(limits.tmp_bytes), "--tmpfs", SHM),
        *("--size", str(limits.home_bytes), "--tmpfs", HOME),
        *("--remount-ro", "/dev"),
    ]


def _fonts(host: Host) -> list[str]:
    if not host.font_cache:
        return []
    name = host.font_cache.rpartition("/")[2]
    return ["--ro-bind", host.font_cache, f"{HOME}/.matplotlib/{name}"]


def _workspace(path: str) -> list[str]:
    inner = [part for name in ("work", "out") for part in ("--bind", f"{path}/{name}", f"{WORKSPACE}/{name}")]
    return ["--ro-bind", path, WORKSPACE, *inner, "--ro-bind", f"{path}/in", f"{WORKSPACE}/in"]

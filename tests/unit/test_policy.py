"""The sandbox's arguments: what must be there is there, and the host's environment and paths are not."""

import itertools
from dataclasses import replace

from mailagent.core.policy import Host, Limits, Policy, arguments, bounds, control, environment

HOST = Host(
    "bwrap",
    "/x/claude",
    "/x/analysis",
    "/x/skills",
    "/x/plugin.json",
    "/x/matplotlibrc",
    "/x/fontlist-v1.json",
)
LIMITS = Limits(
    memory_bytes=1 << 30,
    tmp_bytes=1 << 20,
    home_bytes=2 << 20,
    disk_bytes=3 << 20,
    files=100,
    processes=200,
    cpus=1.5,
    command_seconds=60.0,
)
POLICY = Policy(HOST, "/state/threads/t/files", "/run/t.sock", LIMITS)


def test_nothing_of_the_boundary_is_missing() -> None:
    flags = arguments(POLICY, "/x/etc")
    needed = ["--unshare-all", "--unshare-user", "--disable-userns", "--new-session", "--die-with-parent", "--clearenv"]
    assert [flag for flag in needed if flag not in flags] == []
    assert ("--cap-drop", "ALL") in list(itertools.pairwise(flags))
    assert "--share-net" not in flags


def test_only_the_workspace_is_writable() -> None:
    flags = arguments(POLICY, "/x/etc")
    writable = [flags[at + 1] for at, flag in enumerate(flags) if flag in ("--bind", "--bind-try", "--dev-bind")]
    assert writable == ["/dev/full", "/state/threads/t/files/work", "/state/threads/t/files/out"]


def test_proc_sys_is_read_only_after_proc_is_mounted() -> None:
    flags = arguments(POLICY, "/x/etc")
    assert flags.index("--proc") < flags.index("/proc/sys") - 1
    assert flags[flags.index("/proc/sys") - 1] == "--ro-bind"


def test_every_tmpfs_has_a_size() -> None:
    flags = arguments(POLICY, "/x/etc")
    for at, flag in enumerate(flags):
        if flag == "--tmpfs":
            assert flags[at - 2] == "--size", flags[at + 1]


def test_no_key_is_inside_and_attachments_are_never_imported() -> None:
    inside = environment(POLICY)
    assert inside["ANTHROPIC_API_KEY"] == "placeholder"
    assert inside["PYTHONSAFEPATH"] == "1"
    assert inside["ANTHROPIC_BASE_URL"].startswith("http://"), "with https the CLI does not use the socket"


def test_a_sandbox_without_a_model_has_no_socket() -> None:
    without = Policy(HOST, "/w", "", LIMITS)
    assert "/run/model.sock" not in [
        arguments(without, "/x/etc")[at + 2] for at, f in enumerate(arguments(without, "/x/etc")) if f == "--ro-bind"
    ]


def test_commands_of_the_agent_may_take_less_than_the_whole() -> None:
    assert environment(POLICY)["TOOL_LIMITS"] == "-d 786432 -u 150 -t 90"
    assert {"--nproc=200", "--fsize=2359296"} <= set(bounds(POLICY))


def test_gvisor_is_asked_for_no_limit_that_it_does_not_know() -> None:
    here, there = (set(bounds(replace(POLICY, host=replace(HOST, runsc=runsc)))) for runsc in ("", "/x/runsc"))
    assert here - there == {"--sigpending=1024"}


def test_a_control_group_never_swaps() -> None:
    assert control(LIMITS) == {
        "memory.max": str(1 << 30),
        "memory.swap.max": "0",
        "pids.max": "200",
        "cpu.max": "150000 100000",
    }

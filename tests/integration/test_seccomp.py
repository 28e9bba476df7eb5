"""The system call filter in a real sandbox: what it refuses, and that the analysis libraries work under it."""

import ctypes
import errno
import json
import platform
from pathlib import Path

import pytest

from mailagent.adapters import bubblewrap, seccomp
from mailagent.core.errors import ConfigError
from mailagent.core.policy import Policy
from mailagent.core.syscalls import NEWEST, NUMBERS, RULES, Machine, number
from tests.sandboxes import policy_at

MACHINES: dict[Machine, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""libseccomp's names of them, which are the kernel's."""

CALL = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    libc.syscall(*(ctypes.c_long(each) for each in arguments))
    return ctypes.get_errno()
print(json.dumps([call(*each) for each in json.loads(sys.argv[1])]))
"""

ANALYSIS = """
import subprocess, threading
import duckdb, matplotlib, numpy, pandas, pyarrow.parquet
from matplotlib import pyplot
frame = pandas.DataFrame({"x": numpy.arange(200_000), "y": numpy.random.default_rng(1).normal(size=200_000)})
frame.to_parquet("/srv/work/t.parquet")
query = "select x % 7 as day, sum(y) as total from '/srv/work/t.parquet' group by all order by all"
totals = duckdb.sql(query).df()
assert numpy.allclose(totals.total, frame.groupby(frame.x % 7).y.sum())
numpy.linalg.svd(numpy.random.default_rng(1).normal(size=(300, 300)))
pyplot.bar(totals.day, totals.total)
pyplot.savefig("/srv/out/t.png")
threads = [threading.Thread(target=totals.sum) for _ in range(20)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
assert subprocess.run(["sort"], input="b\\na\\n", text=True, capture_output=True).stdout == "a\\nb\\n"
print("worked")
"""


@pytest.fixture
def policy(short_path: Path) -> Policy:
    return policy_at(short_path)


async def errors(policy: Policy, *calls: tuple[int, ...]) -> list[int]:
    """The error that each call has in the sandbox, 0 for none."""
    command = ["/usr/bin/python3", "-I", "-S", "-c", CALL, json.dumps(calls)]
    finished = await bubblewrap.run(policy, command, timeout=30)
    assert finished.code == 0, finished.errors
    answer: list[int] = json.loads(finished.output)
    return answer


def here() -> Machine:
    return "x86_64" if platform.machine() == "x86_64" else "aarch64"


def test_the_numbers_are_those_of_libseccomp() -> None:
    library = ctypes.CDLL("libseccomp.so.2")  # systemd needs it, so the tests have it
    for place, architecture in enumerate(MACHINES.values()):
        for call, numbers in NUMBERS.items():
            known = library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(architecture), call.encode())
            if known != -1:  # newer than the library
                assert numbers[place] == (known if known >= 0 else None), call


async def test_every_call_that_a_rule_names_is_refused_as_it_says(policy: Policy) -> None:
    always = [(rule, nr) for rule in RULES if rule.when == "always" and (nr := number(rule.call, here())) is not None]
    found = await errors(policy, *((nr, -1, -1, -1, -1, -1) for _, nr in always))
    assert {rule.call: code for (rule, _), code in zip(always, found, strict=True)} == {
        rule.call: rule.error for rule, _ in always
    }


async def test_what_is_judged_by_its_arguments(policy: Policy) -> None:
    clone, ioctl, sock, pair = (number(call, here()) or 0 for call in ("clone", "ioctl", "socket", "socketpair"))
    namespaces = (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x4000000, 0x8000000, 0x2000000)
    assert await errors(policy, *((clone, flag | 17, 0) for flag in namespaces)) == [errno.EPERM] * len(namespaces)
    files, thread = 0x400, 0x10000
    assert await errors(policy, *((clone, flags, 0) for flags in (thread, thread | 0x900))) == [errno.EPERM] * 2
    assert await errors(policy, (clone, thread | files, 0)) == [errno.EINVAL], "others reach the kernel"
    close_range = number("close_range", here()) or 0
    assert await errors(policy, (close_range, 100, 200, 2), (close_range, 100, 200, 0)) == [errno.EPERM, 0]
    sneaky = (1 << 32) | 0x5412  # the kernel reads 32 bits of it
    assert await errors(policy, *((ioctl, 0, command) for command in (0x5412, 0x541C, sneaky))) == [errno.EPERM] * 3
    assert await errors(policy, (ioctl, 0, 0x5401)) == [errno.ENOTTY], "others reach the kernel"
    families = {family: (await errors(policy, (sock, family, 2, 0)))[0] for family in (1, 2, 16)}
    assert families == {1: 0, 2: 0, 16: 0}
    refused = [family for family in range(60) if family not in (1, 2, 16)]
    assert await errors(policy, *((sock, family, 2, 0) for family in refused)) == [errno.EAFNOSUPPORT] * len(refused)
    assert await errors(policy, (pair, 30, 2, 0)) == [errno.EAFNOSUPPORT]
    flags = {0x21: errno.EPERM, 0x4021: errno.EPERM, 0x22: 0, 0x20: errno.EINVAL, 0x01: errno.EBADF}
    mapped = await errors(policy, *((number("mmap", here()) or 0, 0, 4096, 3, flag, -1, 0) for flag in flags))
    assert dict(zip(flags, mapped, strict=True)) == flags


async def test_a_call_that_nobody_judged_does_not_exist(policy: Policy) -> None:
    x32 = 0x40000000
    assert await errors(policy, (NEWEST + 1,), (NEWEST + 5,), (x32 + 39,)) == [errno.ENOSYS] * 3


async def test_pandas_duckdb_and_matplotlib_work_under_it(policy: Policy) -> None:
    finished = await bubblewrap.run(policy, ["/opt/analysis/bin/python", "-c", ANALYSIS], timeout=60)
    assert finished.output == "worked\n", finished.errors
    assert Path(policy.workspace, "out", "t.png").stat().st_size > 1000


def test_another_machine_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ConfigError, match="riscv64"):
        seccomp.program()


def test_both_machines_have_one() -> None:
    for machine in MACHINES:
        program = seccomp.compiled(RULES, machine)
        assert len(program) % 8 == 0
        assert len(program) // 8 < 4096, "the kernel takes no longer one"

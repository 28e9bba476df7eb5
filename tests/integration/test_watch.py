"""The watch over a sandbox, looking at real processes and real files."""

from functools import partial
from pathlib import Path

import pytest

from mailagent.adapters import bubblewrap, processes, watch
from mailagent.core.errors import PermanentError, TemporaryError
from tests.sandboxes import policy_at

SMALL = {"memory_mb": 200, "tmp_mb": 20, "home_mb": 10, "disk_mb": 20, "files": 50}
WAIT = "exec sleep 60"


async def ended(place: Path, script: str, **sandbox: int) -> str:
    """What a sandbox is ended for that runs this script, "" when it is not."""
    try:
        await bubblewrap.run(policy_at(place, **{**SMALL, **sandbox}), ["/bin/bash", "-c", script], timeout=60)
    except PermanentError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("head -c 10M /dev/zero >work/x", ""),
        (f"for n in 1 2 3; do head -c 10M /dev/zero >work/$n; done; {WAIT}", watch.TOO_MUCH_DISK),
        ("for n in 1 2 3; do head -c 10M /dev/zero >work/$n; done", watch.TOO_MUCH_DISK),  # gone before a look
        ("truncate -s 10G work/hole || true", ""),
        ("truncate -s 14M work/hole", ""),
        ("for n in 1 2; do truncate -s 14M work/$n; done", watch.TOO_MUCH_DISK),
        (
            f"for n in 1 2; do truncate -s 14M work/$n; exec {{f}}<work/$n; rm work/$n; done; {WAIT}",
            watch.TOO_MUCH_DISK,
        ),
        ("for n in $(seq 40); do >out/$n; done", ""),
        ("for n in $(seq 60); do >out/$n; done", watch.TOO_MUCH_DISK),
        ("mkdir work/a; head -c 10M /dev/zero >work/a/x; chmod 0 work/a", ""),
    ],
)
async def test_what_is_written(short_path: Path, script: str, reason: str) -> None:
    assert await ended(short_path, f"cd /srv; {script}") == reason


async def test_a_tree_that_nobody_can_look_through_is_too_much(short_path: Path) -> None:
    deep = "cd /srv/work; for n in $(seq 150); do mkdir a; cd a; done"
    assert await ended(short_path, deep, files=1000) == watch.TOO_MUCH_DISK
    long = f"cd /srv/work; for n in $(seq 50); do mkdir {'d' * 200}; cd {'d' * 200}; done"
    assert await ended(short_path / "long", long, files=1000) == watch.TOO_MUCH_DISK


def test_a_link_is_neither_followed_nor_opened_up(tmp_path: Path) -> None:
    secret, tree = tmp_path / "secret", tmp_path / "work"
    (secret / "below").mkdir(parents=True)
    tree.mkdir()
    secret.chmod(0)
    (tree / "sub").symlink_to(secret)
    assert len(list(watch.sizes(str(tree)))) == 1
    assert list(watch.sizes(str(tree / "sub"))) == list(watch.sizes(str(tmp_path / "gone"))) == []
    assert secret.stat().st_mode & 0o777 == 0
    secret.chmod(0o700)


async def test_what_took_too_much_is_removed_and_the_attachments_stay(short_path: Path) -> None:
    script = "cd /srv; mkdir work/a; for n in $(seq 60); do >work/a/$n; done; chmod 0 work/a"
    policy = policy_at(short_path, **SMALL)
    workspace = Path(policy.workspace)
    (workspace / "in" / "data.csv").write_text("a,b")
    with pytest.raises(PermanentError):
        await bubblewrap.run(policy, ["/bin/bash", "-c", script], timeout=60)
    assert [path.name for path in workspace.rglob("*")] == ["in", "data.csv"]


HOG = """python3 -c '
import os, time
common = bytearray(20 << 20)
for started in range(999):
    if started >= 3: os.wait()
    if os.fork() == 0: room = bytearray(80 << 20); time.sleep(60); os._exit(0)
time.sleep(60)
'"""
"""Three processes, none of which takes too much, and another one for each that ends."""
PASSING = HOG.replace("999", "12").replace("60)", "1)")


async def test_a_command_that_takes_too_much_memory_is_killed_and_its_shell_is_told(short_path: Path) -> None:
    policy = policy_at(short_path, **SMALL, processes=100)
    finished = await bubblewrap.run(policy, ["/bin/bash", "-c", f"{HOG}; echo $?"], timeout=60)
    assert finished.output == "137\n"


async def test_what_the_kernel_left_of_a_command_is_killed_and_its_shell_is_told(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is a control group, which here says that the kernel killed a process, the kernel takes only that."""
    policy = policy_at(short_path, **SMALL)
    lost = Path(policy.workspace, "work", "lost")
    told = partial(watch.Watch, killed=lambda: int(lost.exists()))
    monkeypatch.setattr(bubblewrap, "Watch", lambda policy, others, killed: told(policy, others))
    script = f"cd /srv; bash -c '>work/lost; {WAIT}'; echo $?"
    assert (await bubblewrap.run(policy, ["/bin/bash", "-c", script], timeout=60)).output == "137\n"


async def test_memory_that_is_not_given_back_ends_the_sandbox(short_path: Path) -> None:
    """What the agent started itself, its shells, is spared once; here it is the hog."""
    assert await ended(short_path, f"exec {HOG}") == watch.TOO_MUCH_MEMORY


@pytest.mark.parametrize("name", [b"\xff\xfe", b"1 kB", b"\x0cNSpid: 2", b"a\rPPid: 2", b"\x85\x0c\r \t:"])
async def test_a_process_may_have_any_name_and_tells_nothing_by_it(short_path: Path, name: bytes) -> None:
    named = f"import ctypes, time; ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0)"
    policy = policy_at(short_path, **SMALL)
    (Path(policy.workspace) / "work" / "named.py").write_text(f"{named}\nprint(1, flush=True)\ntime.sleep(1)")
    (Path(policy.workspace) / "work" / "hog.py").write_text(f"{named}\nroom = bytearray(140 << 20)\ntime.sleep(60)")
    alone = await bubblewrap.run(policy, ["python3", "work/named.py"], timeout=60)
    assert alone.output == "1\n"
    hogs = "for n in 1 2; do (python3 work/hog.py &); done; sleep 5; echo alive"
    finished = await bubblewrap.run(policy, ["/bin/bash", "-c", f"bash -c {hogs!r}; echo $?"], timeout=60)
    assert finished.output == "137\n"


HEADLESS = """python3 -c '
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).syscall(60, 0)
'"""
"""Ends its first thread alone, by exit(2)."""


async def test_a_process_that_hides_what_it_has_is_killed(short_path: Path) -> None:
    finished = await bubblewrap.run(
        policy_at(short_path, **SMALL), ["/bin/bash", "-c", f"{HEADLESS}; echo $?"], timeout=50
    )
    assert finished.output == "137\n"


async def test_empty_files_in_memory_count(short_path: Path) -> None:
    many = "mkdir /tmp/a; cd /tmp/a; python3 -c 'for n in range(100_000): open(str(n), \"w\").close()'; exec sleep 60"
    assert await ended(short_path, many, memory_mb=80, tmp_mb=5) == watch.TOO_MUCH_MEMORY


async def test_files_in_memory_count(short_path: Path) -> None:
    fill = "head -c 60M /dev/zero >/tmp/x; head -c 60M /dev/zero >/dev/shm/x"
    room = {"memory_mb": 350, "tmp_mb": 70, "disk_mb": 200}
    assert await ended(short_path, f"{fill}; exec {HOG}", **room) == watch.TOO_MUCH_MEMORY
    assert await ended(short_path / "again", PASSING, **room) == ""


async def test_memory_that_processes_have_in_common_counts_once(short_path: Path) -> None:
    common = PASSING.replace("20 <<", "120 <<").replace("80 <<", "1 <<")
    assert await ended(short_path, common) == ""


MAPPED = """python3 -c '
import mmap, os, time
with open("work/x", "w+b") as file: file.write(bytes(4096)); file.flush(); room = mmap.mmap(file.fileno(), 4096)
os.unlink("work/x"); open("out/hidden", "w"); time.sleep(60)
'"""
SENT = """python3 -c '
import os, socket, time
a, b = socket.socketpair()
with open("work/x", "wb") as file: socket.send_fds(a, [b"x"], [file.fileno()])
os.unlink("work/x"); open("out/hidden", "w"); time.sleep(60)
'"""


@pytest.mark.parametrize("script", [MAPPED, SENT])
async def test_who_hides_files_is_to_blame_when_the_disk_is_nearly_full(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    hidden = short_path / "files" / "out" / "hidden"
    monkeypatch.setattr(watch, "_free", lambda _: 0 if hidden.exists() else 1 << 40)
    assert await ended(short_path, f"cd /srv; {script}") == watch.TOO_MUCH_DISK


async def test_a_disk_that_is_nearly_full_is_left_to_the_others(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_free", lambda _: 0)
    with pytest.raises(TemporaryError, match="disk"):
        await ended(short_path, WAIT)


async def test_memory_that_is_nearly_used_up_is_left_to_the_others(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "available_bytes", lambda: 0)
    with pytest.raises(TemporaryError, match="memory"):
        await ended(short_path, WAIT)

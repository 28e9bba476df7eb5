"""The checkers themselves: each must find what it is there for."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.fault import leftovers
from tests.fault.checker import Asked, judge
from tests.fault.sink import Delivery

ALICE, BOB = "alice@customers.test", "bob@customers.test"
FIRST, SECOND, THIRD, OTHER = Asked(1, 1, ALICE), Asked(1, 2, ALICE), Asked(1, 3, ALICE), Asked(2, 1, BOB)
ASKED = [FIRST, SECOND, OTHER]


def reply(
    to: Sequence[Asked], *, number: int = 0, recipient: str = "", named: Sequence[Asked] = (), at: float = 0.0
) -> Delivery:
    """A reply to these mails."""
    references = " ".join(mail.message_id for mail in named or to)
    body = " ".join(f"A:{mail.name}" for mail in to) or "Sorry."
    fields = f"Message-ID: <{number or to[0].name}@us.test>\r\nReferences: {references}\r\n"
    return Delivery(at, recipient or (to or named)[0].sender, f"{fields}\r\n{body}\r\n".encode())


def test_one_reply_to_each_is_good_alone_or_together() -> None:
    apart = judge(ASKED, [reply([OTHER]), reply([FIRST]), reply([SECOND])])
    together = judge(ASKED, [reply([FIRST, SECOND]), reply([OTHER])])
    assert (apart.mails, apart.replies, apart.faults(), apart.repeats) == (3, 3, [], ())
    assert (together.mails, together.replies, together.faults(), together.repeats) == (3, 2, [], ())


def test_the_same_reply_again_is_a_repeat_and_no_fault() -> None:
    first, again = reply([FIRST], at=1.0), reply([FIRST], at=2.0)
    found = judge([FIRST], [first, again])
    assert found.repeats == ((first, again),)
    assert found.faults() == []


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ([reply([FIRST]), reply([OTHER])], "lost: t1m2"),
        ([reply([FIRST]), reply([SECOND]), reply([OTHER]), reply([FIRST], number=9)], "twice: t1m1"),
        ([reply([SECOND]), reply([FIRST]), reply([OTHER])], "disorder: t1m1"),
        ([reply([SECOND, FIRST]), reply([OTHER])], "disorder: t1m1"),
        ([reply([FIRST], recipient=BOB), reply([SECOND]), reply([OTHER])], "misled: <t1m1@us.test>"),
        ([reply([FIRST, SECOND], named=[SECOND]), reply([OTHER])], "misled: <t1m1@us.test>"),
        ([reply([FIRST]), reply([SECOND]), reply([OTHER]), reply([THIRD])], "misled: <t1m3@us.test>"),
        ([*map(reply, [[FIRST], [SECOND], [OTHER]]), reply([], named=[OTHER], number=5)], "unasked: <5@us.test>"),
        ([reply([FIRST]), reply([FIRST, SECOND], number=1), reply([OTHER])], "twice: t1m1"),
    ],
)
def test_what_must_not_be_is_found(history: list[Delivery], fault: str) -> None:
    assert fault in judge(ASKED, history).faults()


def test_other_bytes_under_the_same_message_id_are_found() -> None:
    changed = reply([FIRST])
    found = judge([FIRST], [changed, Delivery(2.0, ALICE, changed.data + b"more\r\n")])
    assert found.faults() == ["altered: <t1m1@us.test>"]


def test_an_orphan_is_found_and_gone_when_it_has_ended() -> None:
    with leftovers.adopting():
        known = leftovers.children(os.getpid())
        shell = subprocess.Popen(["sh", "-c", "sleep 600 >/dev/null & echo $!"], stdout=subprocess.PIPE)
        orphan = int(shell.communicate()[0])
        assert leftovers.processes(known, []) == {orphan: "sleep 600"}
        os.kill(orphan, 9)
        os.waitpid(orphan, 0)
        assert leftovers.processes(known, []) == {}


async def test_what_a_daemon_runs_beside_what_it_may_is_found() -> None:
    daemon = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        "sleep 601 & sh -c 'sleep 602; :' mailagent.adapters.parser & echo; wait",
        stdout=asyncio.subprocess.PIPE,
    )
    assert daemon.stdout
    await daemon.stdout.readline()
    known = leftovers.children(os.getpid())
    found = leftovers.processes(known, [daemon.pid])
    for pid in list(leftovers.children(daemon.pid)):
        for below in (pid, *leftovers.children(pid)):
            os.kill(below, 9)
    await daemon.wait()
    assert list(found.values()) == ["sleep 601"]


@pytest.mark.parametrize(
    "make",
    [
        lambda top: (top / "run").joinpath("abc.sock"),
        lambda top: (top / "state/tmp").joinpath("session-1"),
        lambda top: (top / "state/threads/T").joinpath("restoring"),
    ],
)
def test_files_of_sessions_are_found(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    for place in ("run", "state/tmp", "state/threads/T"):
        (tmp_path / place).mkdir(parents=True)
    assert leftovers.files(tmp_path / "state", tmp_path / "run") == []
    left = make(tmp_path)
    left.touch()
    assert leftovers.files(tmp_path / "state", tmp_path / "run") == [str(left)]

"""Debian's Postfix hands mail over by LMTP, set up as docs/operations.md says; without root, in a sandbox of its own.

Postfix wants to be root and to become others. Here it is root of a user namespace in which nobody else exists: a
syscall filter lets each change of user succeed and do nothing, and its programs, which refuse to be root, each go on in
a namespace where the same user has Postfix's own number."""

import asyncio
import os
import platform
import pwd
import re
import shutil
import smtplib
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailagent.adapters.dkim import DkimCheck
from mailagent.adapters.lmtp import LmtpServer
from mailagent.adapters.spool import Spool, SpoolInbox
from mailagent.config import Lmtp, Mail
from tests.fakes.room import FakeRoom
from tests.listening import free_port
from tests.mail_peers import DEADLINE, follow

PROGRAMS = Path("/usr/lib/postfix/sbin")
DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
AGENT = "data@example.org"

# Numbers of set*id(2), setgroups(2) and the chown(2) family (asm/unistd.h).
CHANGES = {
    "x86_64": (105, 106, 113, 114, 117, 119, 116, 122, 123, 92, 93, 94, 260),
    "aarch64": (144, 146, 145, 143, 147, 149, 159, 151, 152, 54, 55),
}

MAIN = """
compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
daemon_directory = {dir}/programs
mail_owner = postfix
setgid_group = postdrop
maillog_file = {dir}/log
maillog_file_prefixes = {dir}
inet_interfaces = 127.0.0.1
myhostname = mx.example.org
mydestination = example.org
alias_maps =
minimal_backoff_time = 1s
queue_run_delay = 1s
"""

MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
proxymap unix - - n - - proxymap
lmtp unix - - n - - lmtp
local unix - n n - - local
error unix - - n - - error
retry unix - - n - - error
flush unix n - n 1000? 0 flush
"""

QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "pid", "private")


def documented(port: int) -> str:
    """The lines of docs/operations.md, with the port of this test."""
    found = re.search(
        r"<!-- tests/integration/test_postfix.py runs these lines -->\n\n((?: {4}.*\n)+)", DOCS.read_text()
    )
    assert found
    lines = re.sub(r"(?m)^ {4}", "", found[1])
    assert lines.count("127.0.0.1:2424") == 1
    return lines.replace("127.0.0.1:2424", f"127.0.0.1:{port}")


def filter_of_changes() -> int:
    """A pipe with the program for seccomp(2): these calls return 0 and are not made."""
    numbers = CHANGES[platform.machine()]
    program = [(0x20, 0, 0, 0)]  # load the number of the call
    program += [(0x15, len(numbers) - n, 0, number) for n, number in enumerate(numbers)]
    program += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000)]  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with 0
    reading, writing = os.pipe()
    os.write(writing, b"".join(struct.pack("HBBI", *step) for step in program))
    os.close(writing)
    return reading


def laid_out(place: Path, lmtp_port: int) -> int:
    """Its directories, settings and programs; returns the port where it takes mail."""
    for name in ("etc", "data", "programs", *(f"queue/{queue}" for queue in (*QUEUES, "public", "saved", "trace"))):
        (place / name).mkdir(parents=True)
    port = free_port()
    (place / "etc" / "main.cf").write_text(MAIN.format(dir=place) + documented(lmtp_port))
    (place / "etc" / "master.cf").write_text(MASTER.format(port=port))
    user = pwd.getpwnam("postfix")
    as_itself = f"exec unshare --user --map-user={user.pw_uid} --map-group={user.pw_gid}"
    for program in PROGRAMS.iterdir():
        (place / "programs" / program.name).write_text(f'#!/bin/sh\n{as_itself} {program} "$@"\n')
        (place / "programs" / program.name).chmod(0o755)
    return port


@contextmanager
def postfix(place: Path, lmtp_port: int) -> Iterator[int]:
    """Running; the port where it takes mail."""
    if not (PROGRAMS / "master").exists() or not shutil.which("bwrap"):
        pytest.skip("Postfix or bubblewrap is not installed: make test does it")
    if platform.machine() not in CHANGES:
        pytest.skip(f"the numbers of system calls are not known for {platform.machine()}")
    port, changes = laid_out(place, lmtp_port), filter_of_changes()
    command = ["bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL", "--unshare-pid"]
    command += ["--die-with-parent", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    command += ["--seccomp", str(changes), str(PROGRAMS / "master"), "-d", "-c", str(place / "etc")]
    with subprocess.Popen(command, pass_fds=[changes], stderr=subprocess.PIPE) as process:
        os.close(changes)
        try:
            yield port
        finally:
            process.kill()
            process.communicate()


def connected(port: int) -> smtplib.SMTP:
    """A client of the server, once it listens."""
    while True:
        try:
            return smtplib.SMTP("127.0.0.1", port, timeout=DEADLINE)
        except ConnectionRefusedError:
            os.sched_yield()


async def test_postfix_hands_over_as_documented(short_path: Path) -> None:
    mail = Mail.model_validate({"address": AGENT, "authserv_id": "mx.example.org"})
    server = LmtpServer(Lmtp(listen="127.0.0.1:0"), mail, Spool(short_path / "spool"), DkimCheck(), FakeRoom())
    inbox = SpoolInbox(server.spool)
    await server.start()
    await inbox.open()

    def send(port: int) -> dict[str, tuple[int, bytes]]:
        with connected(port) as client:
            client.ehlo()
            assert client.esmtp_features["size"] == "36000000"
            body = b"From: customer@example.net\r\nSubject: Data\r\n\r\n.a line\r\n" + b"x" * 900 + b"\r\n"
            return client.sendmail("customer@example.net", [AGENT, "data+tag@example.org", "who@example.org"], body)

    with postfix(short_path / "postfix", server.port) as port:
        async with asyncio.timeout(DEADLINE):
            refused = await asyncio.to_thread(send, port)
            uid = await follow(inbox, 0)
        [raw] = await inbox.fetch([uid], now=0.0)
    await server.stop()
    assert {who: answer[0] for who, answer in refused.items()} == {"who@example.org": 550}
    assert raw.data.startswith(
        b"Authentication-Results: mx.example.org;\r\n\tdkim=none\r\nReturn-Path: <customer@examp"
    )
    assert sorted(re.findall(rb"Delivered-To: (\S+)", raw.data)) == [b"data+tag@example.org", b"data@example.org"]
    assert raw.data.endswith(b"\r\n\r\n.a line\r\n" + b"x" * 900 + b"\r\n")
    assert server.spool.numbers() == [uid]

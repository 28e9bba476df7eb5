"""Debian's Dovecot 2.3, started unprivileged on loopback, as the IMAP server that is known to be right.

A test module imports the fixture `dovecot`.
"""

import itertools
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.listening import free_port

PASSWORD = "secret"
HOST = "127.0.0.1"
OLD_HOST = "127.0.0.2"
"""The same server without extensions: no MOVE, no IDLE, no SPECIAL-USE; its certificate is not for this name."""

CONFIG = """
base_dir = {dir}/run
state_dir = {dir}/run
log_path = /dev/stderr
protocols = imap
listen = {host}, {old_host}
ssl = yes
ssl_cert = <{cert}
ssl_key = <{key}
disable_plaintext_auth = no
default_login_user = nobody
default_internal_user = nobody
default_internal_group = nogroup
first_valid_uid = 1
mail_uid = nobody
mail_gid = nogroup
mail_location = maildir:{dir}/mail/%u
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={dir}/mail/%u
}}
namespace inbox {{
  inbox = yes
  separator = /
  mailbox Sent {{
    auto = create
    special_use = \\Sent
  }}
}}
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = {imaps_port}
    ssl = yes
  }}
}}
protocol imap {{
  mail_max_userip_connections = 100
}}
local {old_host} {{
  protocol imap {{
    imap_capability = IMAP4rev1 UIDPLUS
  }}
}}
service stats {{
  chroot =
}}
service ipc {{
  chroot =
}}
"""


@dataclass(frozen=True)
class Dovecot:
    """A running server: every user name is an account of its own, the password is always PASSWORD."""

    imap_port: int
    imaps_port: int
    ca_file: str
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def user(self) -> str:
        """The name of an account that nobody used before."""
        return f"user{next(self._numbers)}"


def certificate(directory: Path, name: str) -> tuple[str, str]:
    """Files with a self-signed certificate for localhost and 127.0.0.1, its own authority, and with its key."""
    cert, key = str(directory / f"{name}.crt"), str(directory / f"{name}.key")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "1", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*request, *names, "-out", cert, "-keyout", key], check=True, capture_output=True)
    return cert, key


_STARTED = pytest.StashKey[Dovecot]()


@pytest.fixture(scope="session")
def dovecot(pytestconfig: pytest.Config) -> Dovecot:
    """One server for all tests of all modules; each takes a user of its own."""
    program = shutil.which("dovecot", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("Dovecot is not installed: make test does it")
    if _STARTED not in pytestconfig.stash:
        until_the_end = ExitStack()
        pytestconfig.add_cleanup(until_the_end.close)
        pytestconfig.stash[_STARTED] = until_the_end.enter_context(_running(program))
    return pytestconfig.stash[_STARTED]


@contextmanager
def _running(program: str) -> Iterator[Dovecot]:
    with tempfile.TemporaryDirectory(prefix="dovecot-") as name:
        directory = Path(name)
        imap_port, imaps_port = free_port(), free_port()
        cert, key = certificate(directory, "dovecot")
        config = directory / "dovecot.conf"
        config.write_text(
            CONFIG.format(
                dir=name,
                cert=cert,
                key=key,
                password=PASSWORD,
                host=HOST,
                old_host=OLD_HOST,
                imap_port=imap_port,
                imaps_port=imaps_port,
            )
        )
        # Dovecot wants users that have names, which that of a test may not have: to it, we are nobody. All of its
        # processes end with the first in their namespace, and at once.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--user", "--map-user=65534", "--map-group=65534"]
        command += ["--pid", "--fork", "--kill-child", program, "-F", "-c", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            hearing = threading.Thread(target=_hear, args=[process])
            try:
                _wait_until_ready(process)
                hearing.start()
                yield Dovecot(imap_port, imaps_port, cert)
            finally:
                process.kill()
                if hearing.ident:
                    hearing.join()


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "starting up" in line:
            return
    raise AssertionError(f"Dovecot did not start: {''.join(said)}")


def _hear(process: subprocess.Popen[str]) -> None:
    """Read what it logs until it ends: it would stand still once the pipe is full."""
    assert process.stderr is not None
    for _ in process.stderr:
        pass

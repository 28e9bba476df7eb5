"""Our own check of DKIM signatures (RFC 6376), for mail that came without a server's verdict on its sender.

Each message gets a child process of its own, without secrets and with little memory and time. A thread would read a
stranger's mail and a stranger's DNS records in the process that holds the secrets; a child that lives on, as
adapters/parser.py has one, could be made by one mail to vouch for the next. What a child says is a line of JSON."""

import asyncio
import json
import re
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import dkim
import dns.exception
import dns.resolver
from pydantic import StringConstraints, TypeAdapter

from mailagent.core.errors import TemporaryError

MAX_SIGNATURES = 5
MEMORY = 1 << 30
WALL_SECONDS = 30.0
DNS_SECONDS = 5.0
AT_ONCE = 2


Result = Literal["pass", "fail", "policy", "temperror", "permerror"]


@dataclass(frozen=True, slots=True)
class Signature:
    """What became of one signature, as Authentication-Results has it (RFC 8601 section 2.7.1).

    "policy": it holds by its own rules, but it leaves open what must not be."""

    result: Result
    domain: Annotated[str, StringConstraints(pattern=r"^[a-z0-9._-]{0,253}$")] = ""


_SIGNATURES: TypeAdapter[tuple[Signature, ...]] = TypeAdapter(tuple[Signature, ...])


class DkimCheck:
    """Checks messages, two at a time; keys are asked for at `nameservers` (ADDRESS:PORT), else at the system's."""

    def __init__(self, nameservers: Sequence[str] = (), cpu_seconds: int = 5) -> None:
        self._arguments = (str(cpu_seconds), *nameservers)
        self._places = asyncio.Semaphore(AT_ONCE)

    async def check(self, mail: BinaryIO) -> tuple[Signature, ...]:
        """The signatures of the message that is in this file whole, topmost first; never an error because of what is
        in it. OSError when the file is not written in full; TemporaryError when no process can be started."""
        mail.flush()
        async with self._places:
            child = await self._started(mail)
            try:
                return await _answer(child)
            finally:
                if child.returncode is None:
                    with suppress(ProcessLookupError):
                        child.kill()
                await child.communicate()

    async def _started(self, mail: BinaryIO) -> asyncio.subprocess.Process:
        try:
            with _again(mail) as again:
                return await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-m", __name__, *self._arguments),
                    stdin=again,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                    env={"LANG": "C.UTF-8"},  # the daemon's own holds secrets
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            raise TemporaryError(f"cannot start the process that checks signatures: {error}") from error


def _again(file: BinaryIO) -> BinaryIO:
    """The same file with a position of its own."""
    return Path(f"/proc/self/fd/{file.fileno()}").open("rb")


async def _answer(child: asyncio.subprocess.Process) -> tuple[Signature, ...]:
    if child.stdout is None:
        return (Signature("temperror"),)
    try:
        async with asyncio.timeout(WALL_SECONDS):
            try:
                line = await child.stdout.readuntil(b"\n")
            except EOFError:
                line = b""
            await child.wait()
        return _SIGNATURES.validate_json(line)
    except TimeoutError:
        return (Signature("temperror"),)
    except (asyncio.LimitOverrunError, ValueError):  # it died of the message, or speaks nonsense
        return (Signature("permerror"),)


# What follows runs in the child.

Lookup = Callable[..., bytes | None]

_SINGLE = (
    *(b"from", b"sender", b"reply-to", b"to", b"cc", b"subject", b"date", b"message-id", b"in-reply-to"),
    *(b"references", b"mime-version", b"content-type", b"content-transfer-encoding"),
)
_HEADER = re.compile(rb".*?\n(?=\r?\n)", re.DOTALL)
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?!\n)|^From ", re.MULTILINE)
_IN_TEST = re.compile(rb"(?:^|;)\s*t\s*=[^;]*\by\b")


class _SilentError(Exception):
    """No name server answered."""


def signatures(raw: bytes, lookup: Lookup) -> Iterator[Signature]:
    """What becomes of each signature; `lookup(name, timeout=…)` gives a TXT record. Raises what dkimpy raises."""
    mail = dkim.DKIM(raw)
    names = [name.lower() for name, _ in mail.headers]
    sound = _is_sound(raw, names)
    for index in range(min(names.count(b"dkim-signature"), MAX_SIGNATURES)):
        mail.signature_fields = {}
        result = _verified(mail, index, lookup)
        if result == "pass" and not (sound and _covers(mail)):
            result = "policy"
        yield Signature(result, mail.signature_fields.get(b"d", b"").decode("ascii", "replace").lower())


def _verified(mail: dkim.DKIM, index: int, lookup: Lookup) -> Result:
    try:
        return "pass" if mail.verify(index, lookup) else "fail"
    except _SilentError:
        return "temperror"
    except dkim.ValidationError:
        return "fail"
    except dkim.DKIMException:
        return "permerror"


def _is_sound(raw: bytes, names: list[bytes]) -> bool:
    """False for a header that two parsers read in two ways: a mail of somebody else, sent again below a second Subject,
    or with another body behind a lone CR, must not count as theirs (RFC 6376 section 8.15)."""
    header = _HEADER.match(raw)
    return not _AMBIGUOUS.search(header[0] if header else raw) and all(names.count(name) < 2 for name in _SINGLE)


def _covers(mail: dkim.DKIM) -> bool:
    """Whether sender and whole body are signed (RFC 6376 sections 5.4 and 8.2), and not by SHA-1 (RFC 8301)."""
    fields = mail.signature_fields
    return b"from" in mail.include_headers and b"l" not in fields and fields[b"a"].endswith(b"-sha256")


def _lookup(nameservers: Sequence[str]) -> Lookup:
    resolver = dns.resolver.Resolver(configure=not nameservers)
    if nameservers:
        places = [nameserver.rpartition(":") for nameserver in nameservers]
        resolver.nameservers = [host for host, _, _ in places]
        resolver.nameserver_ports = {host: int(port) for host, _, port in places}

    def key(name: bytes, timeout: float = DNS_SECONDS) -> bytes | None:
        try:
            answer = resolver.resolve(name.decode("ascii"), "TXT", lifetime=timeout)
        except (dns.exception.Timeout, dns.resolver.NoNameservers, OSError) as error:
            raise _SilentError from error
        except (dns.exception.DNSException, UnicodeError):
            return None
        record = b"".join(answer[0].strings)
        return None if _IN_TEST.search(record) else record  # a key in test vouches for nothing (RFC 6376 section 3.6.1)

    return key


def _serve(cpu_seconds: int, nameservers: Sequence[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found = [asdict(one) for one in signatures(sys.stdin.buffer.read(), _lookup(nameservers))]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2:])

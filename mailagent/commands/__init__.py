"""What the commands beside `run` do with the daemon's parts: answer one message, inspect, diagnose."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from mailagent import daemon, stores
from mailagent.adapters import cgroups, host, keys, redis
from mailagent.adapters.disk import Disk
from mailagent.adapters.imap import ImapInbox
from mailagent.adapters.parser import ChildParser
from mailagent.commands.store import jobs_of
from mailagent.config import Config
from mailagent.core.compose import reply_id
from mailagent.core.errors import ConfigError, PermanentError, TemporaryError
from mailagent.core.inspection import House, Inspection, inspected
from mailagent.core.job import Bounced, Composed, Dead, Held, Merged, Sent
from mailagent.core.screen import Rule
from mailagent.core.thread import continues, evidence
from mailagent.core.values import JobId, Mailbox, Outgoing
from mailagent.flow.admission import new_job
from mailagent.ports import Submission

LOOK_SECONDS = 0.1

LIMITS = {
    True: "control groups (cgroup v2) bound memory, processors and processes; disk is watched",
    False: "no control groups were delegated to this process (the service has them): memory and disk are watched, "
    "processes bounded by rlimits, processors only shared fairly",
}
"""What doctor says of the limits in force, by whether there are control groups."""


async def answer(config: Config, raw: bytes) -> bytes:
    """Answer one message without a mailbox: same queue, session, sandbox and rendering; returns the reply's bytes.
    PermanentError when there is none."""
    async with daemon.build(config) as parts:
        inbound = await parts.parser.parse(raw)
        found = await parts.jobs.thread_of(evidence(inbound))
        thread = found if continues(inbound, found) else None
        job = new_job(Mailbox("answer", "", 0), 0, inbound, await parts.blobs.put(raw), thread, "", ())
        await parts.jobs.accept(job, None)
        stopping = asyncio.Event()
        working = asyncio.create_task(daemon.work(parts, Kept(reply_id(job.id, domain_of(config))), stopping))
        try:
            composed = await _ended(parts, job.id, working)
        finally:
            stopping.set()
            await working
        return await parts.blobs.get(composed.message)


async def _ended(parts: daemon.Parts, job: JobId, working: "asyncio.Task[None]") -> Composed:
    """The reply to the job, waited for; it may be one that was made before. Raises what `working` fails with."""
    while True:
        found = await parts.jobs.find(job)
        match found.stage if found else None:
            case Sent(composed, _) | Bounced(composed, _) | Held(_, Sent(composed, _)):
                return composed
            case Merged(into):
                job = into
            case Dead(reason) | Held(reason, _):
                raise PermanentError(f"there is no answer: {reason}")
            case _:
                for failed in (await asyncio.wait({working}, timeout=LOOK_SECONDS))[0]:
                    failed.result()


class Kept(Submission):
    """A way out that ends here, for the one reply that is waited for; others wait for the daemon."""

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id

    async def send(self, outgoing: Outgoing) -> str:
        """It is kept in the blobs already."""
        if outgoing.message_id != self._message_id:
            raise TemporaryError("this is the daemon's to send")
        return "kept"

    async def was_sent(self, outgoing: Outgoing) -> bool:
        """There is no Sent folder."""
        del outgoing
        return False

    async def file_sent(self, outgoing: Outgoing) -> None:
        """There is no Sent folder."""


def domain_of(config: Config) -> str:
    """The domain of our address."""
    return config.mail.address.rpartition("@")[2]


async def status(config: Config) -> dict[str, int]:
    """How many jobs wait where, in the store of a running daemon."""
    async with jobs_of(config) as jobs:
        return await jobs.counts()


async def diagnose(config: Config) -> list[host.Check]:
    """Every check there is, those that start something included: a sandbox, the mailbox."""
    found = list(host.checks(config))
    if not any(check.mend for check in found):
        found += await _diagnose_sandbox(config)
    found.append(await diagnose_disk(config))
    if config.redis.url:
        found.append(await diagnose_redis(config.redis.url))
    if config.storage.blobs.startswith("s3://"):
        found.append(await diagnose_files(config))
    if config.imap.auth == "password":  # root's token_command may want files that we, no longer root, cannot read
        found.append(await _diagnose_mailbox(config))
    return found


async def _diagnose_sandbox(config: Config) -> list[host.Check]:
    try:
        tried = await daemon.check_sandbox(config, daemon.parts_on_host(config))
    except (ConfigError, TemporaryError) as error:
        return [host.Check("sandbox", str(error))]
    refused = f"{len(tried)} attempts refused: {', '.join(tried)}"
    return [host.Check("sandbox", "", refused), host.Check("its limits", "", LIMITS[cgroups.delegated() is not None])]


async def diagnose_disk(config: Config) -> host.Check:
    """Whether there is room for mail, where the state directory is or will be made."""
    state, floor = Path(config.storage.state_dir).absolute(), config.storage.min_free_mb
    there = next(path for path in (state, *state.parents) if path.exists())
    full = f"{there} has less than {floor:g} MB free (storage.min_free_mb), so no mail is taken over: make room"
    return host.Check("disk", "" if await Disk(there, floor).free() else full)


async def diagnose_redis(url: str) -> host.Check:
    """Whether this server can be reached and is fit to keep mail."""
    try:
        client, warnings = await redis.connect(url)
    except (ConfigError, TemporaryError) as error:
        return host.Check("Redis", str(error))
    await client.aclose()
    return host.Check("Redis", "", "; ".join(warnings))


async def diagnose_files(config: Config) -> host.Check:
    """Whether the store of files can be used, which is given its name when it has none."""
    try:
        await stores.blobs(config).identity()
    except (ConfigError, TemporaryError) as error:
        return host.Check("files", str(error))
    return host.Check("files", "")


async def _diagnose_mailbox(config: Config) -> host.Check:
    inbox = ImapInbox(config.imap, config.mail, config.secrets.imap_password.get_secret_value())
    try:
        await inbox.open()
    except TemporaryError as error:
        return host.Check("mailbox", f"the mailbox cannot be opened: {error}")
    finally:
        await inbox.close()
    return host.Check("mailbox", "")


def house(config: Config) -> House:
    """Whom these settings let in; with the keys of reply tokens when there are any."""
    secret = config.secrets.token_key.get_secret_value()
    return House(
        rules=[Rule(**rule.model_dump()) for rule in config.allow],
        own=config.mail.address,
        authserv_id=config.mail.authserv_id,
        keys=keys.keys_at_hand(secret, Path(config.storage.state_dir)) if config.mail.plus_addressing else (),
        most_mb=config.mail.max_message_mb,
    )


async def inspect(paths: Iterable[Path], known: House | None) -> AsyncIterator[tuple[Path, Inspection | str]]:
    """What the daemon makes of the message in each file, read as it reads them; or why it cannot be read."""
    parser = ChildParser()
    try:
        for path in paths:
            try:
                raw = path.read_bytes()
                yield path, inspected(await parser.parse(raw), len(raw), known)
            except (PermanentError, OSError) as error:
                yield path, (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    finally:
        await parser.close()

"""What the commands beside `run` do with the daemon's parts: answer one message, look a mail up, diagnose."""

import asyncio
import tempfile
from pathlib import Path

from mailagent import daemon
from mailagent.adapters import bubblewrap, host, redis
from mailagent.adapters.imap import ImapInbox
from mailagent.config import Config
from mailagent.core.compose import reply_id
from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.core.job import Job
from mailagent.core.values import Mailbox, Outgoing, RawMessage
from mailagent.flow.intake import new_job
from mailagent.ports import Submission


async def answer(config: Config, raw: bytes) -> bytes:
    """Answer one message without a mailbox: same queue, session, sandbox and rendering; returns the reply's bytes."""
    async with daemon.build(config) as parts:
        inbound = await parts.parser.parse(raw)
        thread = await parts.jobs.thread_of(inbound.in_reply_to)
        received = RawMessage(raw, Mailbox("ask", "", 0), 0, parts.clock.now())
        job = new_job(received, inbound, await parts.blobs.put(raw), thread, "", ())
        await parts.jobs.accept(job, None)
        kept, stopping = Kept(reply_id(job.id, config.mail.address.rpartition("@")[2])), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(daemon.work(parts, kept, stopping))
            reply = await kept.reply
            stopping.set()
        return reply.data


class Kept(Submission):
    """A way out that ends here: keeps the one reply that is waited for."""

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self.reply: asyncio.Future[Outgoing] = asyncio.get_running_loop().create_future()

    async def send(self, outgoing: Outgoing) -> str:
        """Keep it."""
        if outgoing.message_id == self._message_id and not self.reply.done():
            self.reply.set_result(outgoing)
        return "kept"

    async def file_sent(self, outgoing: Outgoing) -> None:
        """There is no Sent folder."""


async def find(config: Config, key: str) -> Job | None:
    """The job with this id or Message-ID, looked up in the store of a running daemon."""
    client, _ = await redis.connect(config.redis.url or daemon.private_redis(config).url)
    async with client:
        return await daemon.jobs(config, client).find(key)


async def status(config: Config) -> dict[str, int]:
    """How many jobs wait where, in the store of a running daemon."""
    client, _ = await redis.connect(config.redis.url or daemon.private_redis(config).url)
    async with client:
        return await daemon.jobs(config, client).counts()


async def diagnose(config: Config) -> list[host.Check]:
    """Every check there is, those that start something included: a sandbox, the mailbox."""
    found = list(host.checks(config))
    if not any(check.mend for check in found):
        found.append(await _diagnose_sandbox(config))
    found.append(await _diagnose_mailbox(config))
    return found


async def _diagnose_sandbox(config: Config) -> host.Check:
    with tempfile.TemporaryDirectory() as directory:
        bubblewrap.write_etc(Path(directory) / "etc")
        try:
            await daemon.check_sandbox(host.parts(config, Path(directory) / "etc"), Path(directory))
        except ConfigError as error:
            return host.Check("sandbox", str(error))
    return host.Check("sandbox", "")


async def _diagnose_mailbox(config: Config) -> host.Check:
    inbox = ImapInbox(config.imap, config.mail, config.secrets.imap_password.get_secret_value())
    try:
        await inbox.open()
    except TemporaryError as error:
        return host.Check("mailbox", f"the mailbox cannot be opened: {error}")
    finally:
        await inbox.close()
    return host.Check("mailbox", "")

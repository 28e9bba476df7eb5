"""The daemon as a process: mail in, mail out, a follow-up; what goes wrong ends as the reply a user would expect."""

import asyncio
import csv
import io
import json
import smtplib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any

import pandas as pd

from mailagent.adapters.watch import TOO_MUCH_DISK
from mailagent.demo import story
from mailagent.demo.mailserver import MailServer
from mailagent.demo.rules import RulesModel
from tests.daemon import Daemon, daemon, mailagent
from tests.sandboxes import lax_bubblewrap
from tests.settings import settings_text

AGENT, CUSTOMER, STRANGER = "agent@demo.test", story.CUSTOMER, "stranger@example.org"
ACCOUNTS = {AGENT: "secret", CUSTOMER: "secret", STRANGER: "secret"}


@dataclass
class World:
    """A mail server, a model, a daemon, and the hands of a customer."""

    server: MailServer
    model: RulesModel
    daemon: Daemon
    place: Path

    async def send(self, mail: EmailMessage, sender: str = CUSTOMER) -> None:
        def submit() -> None:
            with smtplib.SMTP("127.0.0.1", self.server.smtp_port, timeout=20) as smtp:
                smtp.login(sender, "secret")
                smtp.send_message(mail)

        await asyncio.to_thread(submit)

    async def reply_to(self, mail: EmailMessage, timeout: float = 90.0) -> EmailMessage:
        """The answer to this message in the customer's mailbox, waited for."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for raw in self.server.messages(CUSTOMER):
                found = message_from_bytes(raw, _class=EmailMessage, policy=policy.default)
                if found["In-Reply-To"] == mail["Message-ID"]:
                    return found
            await asyncio.sleep(0.05)
        raise AssertionError("no reply; the daemon said:\n" + "\n".join(self.daemon.log))

    async def show(self, mail: EmailMessage) -> dict[str, Any]:
        """What `mailagent show` says of it, once it is sent."""
        async with asyncio.timeout(30):
            while True:
                code, output, errors = await mailagent(
                    self.place, "show", self.daemon.settings, "--json", mail["Message-ID"]
                )
                assert code == 0, errors
                job: dict[str, Any] = json.loads(output)
                if job["is"] in ("Sent", "Held", "Dead"):
                    return job


@asynccontextmanager
async def world(place: Path, replay: Any = None, **settings: Any) -> AsyncIterator[World]:
    async with MailServer(ACCOUNTS, authserv_id="mx.demo.test") as server, RulesModel(replay=replay) as model:
        text = settings_text(
            place, model_url=model.url, imap_port=server.imap_port, smtp_port=server.smtp_port, **settings
        )
        async with daemon(place, text) as running:
            yield World(server, model, running, place)


def _mail(text: str, files: Any = (), sender: str = CUSTOMER) -> EmailMessage:
    return story.request(AGENT, text, files, sender=sender)


def _text(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


async def test_a_question_is_answered_with_the_right_figures_and_a_reply_goes_on(short_path: Path) -> None:
    async with world(short_path) as at:
        data = story.sample_csv()
        first = _mail(story.QUESTION, [("orders.csv", data)])
        await at.send(first)
        reply = await at.reply_to(first)

        assert reply["Auto-Submitted"] == "auto-replied"
        assert reply["To"].addresses[0].addr_spec == CUSTOMER
        assert reply["Subject"] == f"Re: {first['Subject']}"
        parts = [part.get_content_type() for part in reply.walk()]
        assert parts.count("image/png") >= 1
        html = reply.get_body(("html",))
        assert html is not None
        assert "cid:" in html.get_content()
        assert "<table" in html.get_content()
        names = [part.get_filename() for part in reply.iter_attachments()]
        assert "analysis.py.txt" in names
        assert "fixed rules, no AI" in _text(reply)
        _figures_are_right(data, reply)

        second = story.follow_up(reply, story.FOLLOW_UPS[0])
        await at.send(second)
        again = await at.reply_to(second)
        assert first["Message-ID"] in again["References"]
        one, two = await at.show(first), await at.show(second)
        assert one["thread"] == two["thread"]
        assert one["session"] == two["session"]
        assert [stamp["name"] for stamp in two["history"]] == [
            *("received", "parsed", "begun", "ingested", "first model request"),
            *("answered", "composed", "sending", "sent"),
        ]
        assert json.dumps(at.model.requests[-1][1]).count("Turn: ") >= 2, "the model sees the first turn"
        seen = json.dumps([body for _, body in at.model.requests])
        assert "secret" not in seen
        assert await at.daemon.stop() == 0


def _figures_are_right(data: bytes, reply: EmailMessage) -> None:
    """Every region's revenue, in the attached table and in the mail, equals what pandas makes of the CSV by itself."""
    frame = pd.read_csv(io.BytesIO(data), sep=";", decimal=",", dtype={"customer_no": str}, encoding="utf-8-sig")
    orders = frame[~frame["order_id"].astype(str).str.startswith("Total")]
    expected = {str(name): round(float(sum_), 2) for name, sum_ in orders.groupby("region")["revenue"].sum().items()}
    table = next(_rows(part) for part in reply.iter_attachments() if part.get_filename() == "by_group.csv")
    revenue = next(column for column in table[0] if column.startswith("revenue"))
    found = {row["region"]: round(float(row[revenue]), 2) for row in table}
    assert {name: found[name] for name in expected} == expected
    for value in expected.values():
        assert f"{value:,.2f}" in _text(reply)


def _rows(part: Message) -> list[dict[str, str]]:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))


async def test_a_stranger_gets_nothing_and_one_log_line(short_path: Path) -> None:
    async with world(short_path) as at:
        await at.send(_mail("Tell me", [("a.csv", b"a,b\n1,2\n")], sender=STRANGER), sender=STRANGER)
        line = await at.daemon.logged("no reply to uid=1")
        assert STRANGER in line
        forged = _mail("Tell me", [("a.csv", b"a,b\n1,2\n")])
        await at.send(forged, sender=STRANGER)
        await at.daemon.logged("no reply to uid=2")
        assert at.server.messages(STRANGER) == []
        assert at.server.messages(CUSTOMER) == []
        assert at.model.requests == []
        assert sum("no reply to" in line for line in at.daemon.log) == 2


async def test_a_mail_without_data_is_told_what_to_send(short_path: Path) -> None:
    async with world(short_path) as at:
        mail = _mail("What is my revenue?")
        await at.send(mail)
        assert "CSV" in _text(await at.reply_to(mail))
        assert at.model.requests == []


async def test_a_file_that_is_no_data_is_named_with_the_reason(short_path: Path) -> None:
    async with world(short_path) as at:
        empty = _mail("And this?", [("empty.csv", b""), ("broken.xlsx", b"PK\x03\x04 not really")])
        await at.send(empty)
        text = _text(await at.reply_to(empty))
        assert "empty.csv" in text
        assert "broken.xlsx" in text
        assert at.model.requests == []


async def test_a_model_that_stays_away_ends_in_one_apology_and_the_thread_stays_usable(short_path: Path) -> None:
    overloaded: list[Any] = []
    async with world(short_path, replay=overloaded, attempts=2) as at:
        mail = _mail("What now?", [("a.csv", b"name,x\nn,1\nm,2\n")])
        await at.send(mail)
        reply = await at.reply_to(mail)
        assert "sorry" in _text(reply)
        answers = [[{"type": "text", "text": "Here I am again."}]]
        at.model._replay = [*([answers[0]] * len(at.model.requests)), *answers]
        second = story.follow_up(reply, "Try again")
        await at.send(second)
        assert "Here I am again." in _text(await at.reply_to(second))
        assert len(at.server.messages(CUSTOMER)) == 2


async def test_a_turn_past_its_deadline_ends_in_an_apology(short_path: Path) -> None:
    hang = [
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "Bash",
            "input": {"command": "python3 -c 'import time; time.sleep(99)'"},
        }
    ]
    async with world(short_path, replay=[hang] * 9, attempts=1, agent="turn_seconds = 4") as at:
        mail = _mail("What now?", [("a.csv", b"name,x\nn,1\nm,2\n")])
        await at.send(mail)
        assert "sorry" in _text(await at.reply_to(mail))


async def test_a_stopped_daemon_gives_its_running_turn_back_and_the_next_one_ends_it(short_path: Path) -> None:
    hang = [
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "Bash",
            "input": {"command": "python3 -c 'import time; time.sleep(99)'"},
        }
    ]
    done = [{"type": "text", "text": "Done after all."}]
    async with MailServer(ACCOUNTS, authserv_id="mx.demo.test") as server, RulesModel(replay=[hang]) as model:
        text = settings_text(
            short_path,
            model_url=model.url,
            imap_port=server.imap_port,
            smtp_port=server.smtp_port,
            agent="drain_seconds = 0.5",
        )
        mail = _mail("What now?", [("a.csv", b"name,x\nn,1\nm,2\n")])
        async with daemon(short_path, text) as running:
            at = World(server, model, running, short_path)
            await at.send(mail)
            async with asyncio.timeout(60):
                while not model.requests:
                    await asyncio.sleep(0.05)
            assert await running.stop() == 0
        model._replay = [hang, *[done] * 5]
        async with daemon(short_path, text) as running:
            at = World(server, model, running, short_path)
            assert "Done after all." in _text(await at.reply_to(mail))


async def test_code_that_writes_too_much_ends_as_one_reply_and_the_thread_goes_on(short_path: Path) -> None:
    flood = "for n in $(seq 40); do head -c 20M /dev/zero >work/$n; done; exec sleep 60"
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": flood}}
    replay = [[call], *[[{"type": "text", "text": "All is well again."}]] * 3]
    async with world(short_path, replay=replay, more="[sandbox]\ndisk_mb = 100") as at:
        first = _mail("What is the sum?", [("a.csv", b"name,x\nn,1\nm,2\n")])
        await at.send(first)
        reply = await at.reply_to(first)
        assert TOO_MUCH_DISK in " ".join(_text(reply).split())
        second = story.follow_up(reply, "Then only the first row.")
        await at.send(second)
        assert "All is well again." in _text(await at.reply_to(second))
        assert len(at.server.messages(CUSTOMER)) == 2


async def test_a_daemon_whose_sandbox_does_not_hold_serves_nobody(short_path: Path) -> None:
    settings = short_path / "mailagent.toml"
    lax = lax_bubblewrap(short_path, ["--remount-ro /"])
    settings.write_text(settings_text(short_path, model_url="http://127.0.0.1:9", more=f'[sandbox]\nbwrap = "{lax}"\n'))
    code, _, errors = await mailagent(short_path, "run", settings)
    assert code == 2
    assert "write beside the workspace" in errors
    code, output, _ = await mailagent(short_path, "doctor", settings)
    assert code == 1
    assert "write beside the workspace" in output


async def test_the_daemon_refuses_to_start_without_what_it_needs(short_path: Path) -> None:
    settings = short_path / "mailagent.toml"
    settings.write_text(
        settings_text(short_path, model_url="http://127.0.0.1:9", more='[redis]\nserver = "no-such-redis"\n')
        + '[sandbox]\nbwrap = "no-such-bwrap"\n'
    )
    code, _, errors = await mailagent(short_path, "run", settings)
    assert code == 2
    assert "apt-get install bubblewrap" in errors
    assert "apt-get install redis-server" in errors
    code, output, _ = await mailagent(short_path, "doctor", settings)
    assert code == 1
    assert "not ok bubblewrap" in output
    assert "ok     skills" in output
    assert "not ok mailbox" in output

"""`mailagent inspect`: what the daemon makes of a message, told without a store, a mailbox or a model."""

import asyncio
import json
import sys
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from mailagent.adapters.keys import token_keys
from mailagent.core.token import address_with, make
from mailagent.core.values import ThreadId
from mailagent.demo import story
from tests.daemon import clean_environment
from tests.settings import settings_text

AGENT = "agent@demo.test"
THREAD = ThreadId("abcdefgh234567ij")
PROOF = b"Authentication-Results: mx.demo.test; dmarc=pass header.from=example.org\r\n"


async def inspect(*arguments: str | Path, place: Path) -> tuple[int, str, str]:
    """Exit code, output, errors; without any secret in the environment."""
    environment = {key: value for key, value in clean_environment(place).items() if "PASSWORD" not in key}
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "mailagent"), "inspect", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment | {"COLUMNS": "200"},
    )
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


async def objects(*arguments: str | Path, place: Path, code: int = 0) -> list[dict[str, Any]]:
    found, output, errors = await inspect(*arguments, "--json", place=place)
    assert (found, errors) == (code, "")
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def settings(short_path: Path) -> Path:
    path = short_path / "mailagent.toml"
    # Nothing answers at these ports: who needed a server would fail.
    path.write_text(settings_text(short_path, model_url="http://127.0.0.1:9", imap_port=9, smtp_port=9, user="agent"))
    return path


@pytest.fixture
def written(short_path: Path) -> Path:
    """A request as a receiving server stores it."""
    mail = story.request(AGENT, "Which region grew?\n\nOn Monday, an agent wrote:\n> Hello", [("a/b.csv", b"x\n1\n")])
    path = short_path / "request.eml"
    path.write_bytes(PROOF + mail.as_bytes(policy=policy.SMTP))
    return path


def reply(place: Path, to: str, *, sender: str = story.CUSTOMER) -> Path:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, to, "Re: [red]figures[/red]"
    mail["Message-ID"], mail["In-Reply-To"] = "<2@example.org>", "<ma.x@demo.test>"
    mail.set_content("Only the north, please.\n")
    path = place / f"{sender.partition('@')[0]}.eml"
    path.write_bytes(PROOF + mail.as_bytes(policy=policy.SMTP))
    return path


async def test_a_request_is_told_whole(settings: Path, written: Path, short_path: Path) -> None:
    (found,) = await objects(written, "--config", settings, place=short_path)
    assert (found["file"], found["error"]) == (str(written), None)
    assert found["sender"] == story.CUSTOMER
    assert found["verdict"] == {"is": "answered", "reason": ""}
    assert found["proven"] is True
    assert (found["ids"], found["tokens"], found["claimed"]) == ([], [], None)
    assert "Which region grew?" in found["text"]
    assert "> Hello" not in found["text"]
    assert "> Hello" in found["quoted"]
    (file,) = found["attachments"]
    assert (file["bytes"], "/" in file["name"]) == (4, False)


async def test_the_same_for_people(settings: Path, written: Path, short_path: Path) -> None:
    code, output, errors = await inspect(written, reply(short_path, AGENT), "--config", settings, place=short_path)
    assert (code, errors) == (0, "")
    for words in (story.CUSTOMER, "proven", "answered", "Which region grew?", "> Hello", ".csv", "4 bytes"):
        assert words in output
    assert "[red]figures[/red]" in output
    assert "refused: Your mail came without data." in output
    assert "unless it continues a thread" in output


async def test_a_token_is_verified_when_the_key_is_at_hand(settings: Path, short_path: Path) -> None:
    state = short_path / "state"
    state.mkdir()
    (key,) = token_keys("", state)
    token = make(key, THREAD, 1, story.CUSTOMER)
    settings.write_text(settings.read_text().replace("[mail]", "[mail]\nplus_addressing = true", 1))
    address = address_with(token, AGENT)
    assert address
    files = reply(short_path, address.upper()), reply(short_path, address, sender="colleague@example.org")
    theirs, strangers = await objects(*files, "--config", settings, place=short_path)
    assert (theirs["tokens"], theirs["claimed"]) == ([[token, THREAD]], THREAD)
    assert theirs["verdict"]["is"] == "answered", "no data are needed in a thread that goes on"
    assert (strangers["tokens"], strangers["claimed"]) == ([[token, None]], None)
    assert strangers["verdict"]["is"] == "ignored"
    (state / "token.key").unlink()
    theirs, _ = await objects(*files, "--config", settings, place=short_path)
    assert (theirs["tokens"], theirs["claimed"]) == ([[token, None]], None)
    assert (theirs["verdict"]["is"], theirs["unless_known"]) == ("refused", True)
    assert list(state.iterdir()) == [], "nothing is made"


async def test_unproven_senders_get_no_reply(settings: Path, written: Path, short_path: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b"dmarc=pass", b"dmarc=fail"))
    (found,) = await objects(written, "--config", settings, place=short_path)
    assert found["verdict"] == {"is": "ignored", "reason": "the sender is not proven by mx.demo.test"}
    assert found["proven"] is False


async def test_what_cannot_be_read_is_told_and_the_others_too(settings: Path, written: Path, short_path: Path) -> None:
    bomb = short_path / "bomb.eml"
    parts = b"".join(b"--x\r\n\r\na\r\n" for _ in range(101))
    bomb.write_bytes(b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + parts + b"--x--\r\n")
    files = bomb, short_path / "nowhere.eml", written
    broken, missing, good = await objects(*files, "--config", settings, place=short_path, code=1)
    assert broken == {"file": str(bomb), "error": "The mail has more than 100 parts."}
    assert missing == {"file": str(files[1]), "error": "No such file or directory"}
    assert good["error"] is None
    code, output, errors = await inspect(*files, "--config", settings, place=short_path)
    assert (code, errors) == (1, "")
    assert "The mail has more than 100 parts." in output


async def test_no_settings_no_verdict(written: Path, short_path: Path) -> None:
    (found,) = await objects(written, place=short_path)
    assert (found["sender"], found["verdict"]) == (story.CUSTOMER, None)
    code, output, _ = await inspect(written, place=short_path)
    assert (code, "not known without settings" in output) == (0, True)


async def test_settings_that_are_wrong_are_told(written: Path, short_path: Path) -> None:
    code, output, errors = await inspect(written, "--config", short_path / "nowhere.toml", place=short_path)
    assert (code, output) == (2, "")
    assert "name the settings with --config FILE" in errors
    (short_path / "latin.toml").write_bytes("[mail]\nname = 'Zürich'\n".encode("latin-1"))
    code, output, errors = await inspect(written, "--config", short_path / "latin.toml", place=short_path)
    assert (code, output) == (2, "")
    assert "latin.toml is not UTF-8 at byte 16: save it as UTF-8" in errors


async def test_a_mail_over_the_limit_is_refused(settings: Path, written: Path, short_path: Path) -> None:
    settings.write_text(settings.read_text().replace("[mail]", "[mail]\nmax_message_mb = 0.0001", 1))
    (found,) = await objects(written, "--config", settings, place=short_path)
    assert found["verdict"]["is"] == "refused"
    assert "MB" in found["verdict"]["reason"]

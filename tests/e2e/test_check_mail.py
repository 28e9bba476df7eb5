"""`mailagent check --mail`: what the servers can do for these settings, what they lack, and what that means."""

from pathlib import Path

import pytest

from mailagent.demo.mailserver import MailServer
from tests.daemon import mailagent
from tests.integration.dovecot import OLD_HOST, Dovecot
from tests.settings import settings_text

AGENT = "agent@demo.test"


async def check(place: Path, text: str) -> tuple[int, list[str]]:
    """Exit code, and a line for each thing asked."""
    settings = place / "mailagent.toml"
    settings.write_text(text.replace("[smtp]", "[smtp]\nuser = 'agent@demo.test'"))
    code, output, errors = await mailagent(place, "check", settings, "--mail")
    assert errors == ""
    return code, [" ".join(line.split()) for line in output.splitlines()]


def text(place: Path, **more: object) -> str:
    return settings_text(place, model_url="http://127.0.0.1:9", **more)  # type: ignore[arg-type]


async def test_a_server_with_everything(short_path: Path) -> None:
    async with MailServer({AGENT: "secret"}) as server:
        code, lines = await check(short_path, text(short_path, imap_port=server.imap_port, smtp_port=server.smtp_port))
        assert server.messages(AGENT) == []
    assert code == 0
    assert [line for line in lines[1:] if not line.startswith("ok ")] == []
    told = "\n".join(lines)
    assert f"IMAP: logged in to 127.0.0.1:{server.imap_port} as {AGENT}" in told
    assert "folder INBOX: 0 messages, UIDVALIDITY" in told
    assert "handled mail is marked $MailAgentDone" in told
    assert {"ok IDLE", "ok MOVE", "ok UIDPLUS", "ok SPECIAL-USE", "ok Sent folder: Sent"} <= set(lines)
    assert f"SMTP: logged in to 127.0.0.1:{server.smtp_port} as {AGENT}; it takes mail from {AGENT}" in told
    assert "ok AUTH: LOGIN PLAIN" in told
    assert "ok SIZE: 67 MB at most" in told


@pytest.mark.parametrize(("host", "lacks"), [("127.0.0.1", False), (OLD_HOST, True)])
async def test_dovecot_with_and_without_extensions(dovecot: Dovecot, short_path: Path, host: str, lacks: bool) -> None:
    async with MailServer({AGENT: "secret"}) as server:
        one = text(short_path, imap_port=dovecot.imap_port, smtp_port=server.smtp_port, user=dovecot.user())
        moving = one.replace("[imap]", 'processed_folder = "Processed"\n[imap]', 1)
        code, lines = await check(short_path, moving.replace('host = "127.0.0.1"', f'host = "{host}"', 1))
    assert code == 0
    lesser = {line.removeprefix("lesser ").partition(":")[0] for line in lines if line.startswith("lesser ")}
    assert lesser == ({"IDLE", "MOVE", "SPECIAL-USE"} if lacks else set())
    assert (
        "lesser IDLE: missing: new mail is noticed within 240 s (imap.idle_seconds) and not at once" in lines
    ) is lacks
    assert "ok Sent folder: Sent" in lines


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('user = "agent@demo.test"', 'user = "nobody@demo.test"', "IMAP: 127.0.0.1: [AUTHENTICATIONFAILED] wrong name"),
        ("[imap]", 'folder = "Nowhere"\n[imap]', "folder Nowhere: is not there: create it, or mend mail.folder"),
        (
            "[smtp]",
            "[smtp]\nauth = 'xoauth2'\ntoken_command = ['/nowhere/token']",
            "token_command: /nowhere/token cannot",
        ),
    ],
)
async def test_what_keeps_the_daemon_from_serving(short_path: Path, old: str, new: str, expected: str) -> None:
    async with MailServer({AGENT: "secret"}) as server:
        good = text(short_path, imap_port=server.imap_port, smtp_port=server.smtp_port)
        code, lines = await check(short_path, good.replace(old, new, 1))
    assert code == 1
    (bad,) = [line for line in lines if line.startswith("not ok")]
    assert expected in bad


async def test_both_servers_are_asked_even_if_the_first_is_away(short_path: Path) -> None:
    async with MailServer({AGENT: "secret"}) as server:
        good = text(short_path, imap_port=server.imap_port, smtp_port=server.smtp_port)
    code, lines = await check(short_path, good)
    assert code == 1
    assert [line.split(":")[0] for line in lines[1:]] == ["not ok IMAP", "not ok SMTP"]


async def test_without_mail_no_server_is_asked(short_path: Path) -> None:
    settings = short_path / "mailagent.toml"
    settings.write_text(text(short_path))
    code, output, _ = await mailagent(short_path, "check", settings)
    assert (code, output.replace("\n", "")) == (0, f"{settings}: good")

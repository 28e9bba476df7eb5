"""Settings for a daemon under test."""

from pathlib import Path


def settings_text(
    place: Path,
    *,
    model_url: str,
    imap_port: int = 1143,
    smtp_port: int = 1025,
    user: str = "agent@demo.test",
    authserv: str = "mx.demo.test",
    allow: str = 'addresses = ["customer@example.org"]',
    max_steps: int = 40,
    attempts: int = 2,
    agent: str = "",
    model: str = "",
    limits: str = "",
    smtp: str = "",
    more: str = "",
) -> str:
    """A whole configuration file for servers on loopback, with everything it writes below `place`."""
    return f"""
[mail]
address = "agent@demo.test"
authserv_id = "{authserv}"
[imap]
host = "127.0.0.1"
port = {imap_port}
security = "none"
user = "{user}"
[smtp]
host = "127.0.0.1"
port = {smtp_port}
security = "none"
{smtp}
[[allow]]
{allow}
mails_per_day = 1000
[model]
base_url = "{model_url}"
name = "rules"
notice = "fixed rules, no AI"
{model}
[agent]
max_steps = {max_steps}
attempts = {attempts}
retry_seconds = 0.2
{agent}
[limits]
sender_mails_per_hour = 1000
mails_per_hour = 10000
waiting_mails = 10000
{limits}
[storage]
state_dir = "{place}/state"
runtime_dir = "{place}/run"
{more}
"""

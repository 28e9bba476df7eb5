"""What config.load takes and refuses; config/mailagent.toml says what config.py says.

`python -m tests.unit.test_config > config/mailagent.toml` writes that file anew.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import PydanticUndefined

from mailagent.config import SECRETS, Allow, Config, Storage, is_loopback, load
from mailagent.core.errors import ConfigError

FILE = Path(__file__).parents[2] / "config" / "mailagent.toml"

HEAD = """\
# The settings of mailagent. Every key is here: what must be set with an example, the rest, behind #, with its default.
# Passwords and keys never stand in this file; they come from the environment or from systemd's credentials:
"""

EXAMPLES = {
    ("mail", "address"): "data@example.org",
    ("imap", "host"): "imap.example.org",
    ("imap", "user"): "data@example.org",
    ("smtp", "host"): "smtp.example.org",
}

SMALL = """
[mail]
address = "Data@Example.ORG"
[imap]
host = "imap.example.org"
user = "data"
[smtp]
host = "smtp.example.org"
"""

PASSWORD = {"MAILAGENT_IMAP_PASSWORD": "correct horse", "ANTHROPIC_API_KEY": "key"}


def tables() -> Iterator[tuple[str, str, type[BaseModel]]]:
    """Name, opening line and class of every table of the file, in the order of config.py."""
    for name, field in Config.model_fields.items():
        part = get_args(field.annotation)[0] if field.annotation == tuple[Allow, ...] else field.annotation
        assert isinstance(part, type)
        if name != "secrets":
            yield name, f"#[[{name}]]" if part is Allow else f"[{name}]", part


def written() -> Iterator[str]:
    """The lines of config/mailagent.toml as config.py would have them."""
    yield from HEAD.splitlines()
    yield from (f"#   {variable}, or the credential {file}" for variable, file in SECRETS.values())
    for name, opening, part in tables():
        yield from ("", f"# {part.__doc__}", opening)
        for key, field in part.model_fields.items():
            yield f"# {field.description}"
            if (name, key) in EXAMPLES:
                yield f"{key} = {json.dumps(EXAMPLES[name, key])}"
            else:
                yield f"#{key} = {json.dumps(field.get_default())}"


def uncommented(text: str) -> dict[str, Any]:
    """The file with every key in force: settings are commented by a bare #, sentences by # and a blank."""
    lines = (line if line.startswith("# ") else line.removeprefix("#") for line in text.splitlines())
    return tomllib.loads("\n".join(lines))


def faults(text: str, environment: Mapping[str, str] = PASSWORD) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(text, environment, {})
    return caught.value.faults


def test_the_file_says_what_the_code_says() -> None:
    assert FILE.read_text() == "\n".join(written()) + "\n"


def test_the_file_loads_as_it_is() -> None:
    config = load(FILE.read_text(), PASSWORD, {})
    assert config.mail.address == "data@example.org"
    assert config.allow == ()


def test_the_file_with_every_key_in_force_changes_nothing() -> None:
    text = FILE.read_text()
    every = uncommented(text)
    assert {name: set(every[name]) for name, _, part in tables() if part is not Allow} == {
        name: set(part.model_fields) for name, _, part in tables() if part is not Allow
    }
    spare = every.pop("allow")
    assert Allow.model_validate(spare[0]) == Allow()
    assert Config.model_validate(every).model_dump() == Config.model_validate(tomllib.loads(text)).model_dump()


def test_every_key_has_one_sentence() -> None:
    sentences = {f"{name}.{key}": f.description for name, _, part in tables() for key, f in part.model_fields.items()}
    assert {key: said for key, said in sentences.items() if not said or not said.endswith(".")} == {}
    assert max(map(len, FILE.read_text().splitlines())) <= 120


def test_the_smallest_file() -> None:
    config = load(SMALL, PASSWORD, {})
    assert config.mail.address == "data@example.org"
    assert config.imap.port == 993
    assert config.secrets.imap_password.get_secret_value() == "correct horse"


def test_all_faults_at_once() -> None:
    text = """
    [mail]
    address = "no address"
    [imap]
    host = "imap.example.org"
    security = "none"
    port = 70000
    folder = "INBOX"
    [smtp]
    user = "data"
    [storage]
    runtime_dir = "/%s"
    [model]
    base_url = "api.example.org"
    [[allow]]
    domain = "example.org"
    [colour]
    """ % ("x" * 60)
    named = {
        "mail.address", "imap.user", "imap.port", "imap.folder", "imap.security", "smtp.host", "storage.runtime_dir",
        "model.base_url", "allow.0.domain", "colour", "mail.authserv_id", "the IMAP password", "the SMTP password",
    }  # fmt: skip
    found = faults(text, {})
    assert {name for name in named if any(fault.startswith(name) for fault in found)} == named
    assert len(found) == len(named)
    assert str(ConfigError(*found)).count("\n") == len(found) - 1


def test_what_is_not_toml() -> None:
    (fault,) = faults("[mail")
    assert fault.startswith("the file is not valid TOML: ")


@pytest.mark.parametrize("text", ["mail = 5\nimap = []\nsmtp = 'x'\nallow = 7\nmodel = 1.5", "allow = [1]", ""])
def test_tables_that_are_no_tables(text: str) -> None:
    assert faults(text)


def test_credentials_win_unless_empty() -> None:
    environment = {"MAILAGENT_IMAP_PASSWORD": "from the environment", "ANTHROPIC_API_KEY": "key"}
    config = load(SMALL, environment, {"imap-password": "from the file\n", "anthropic-api-key": ""})
    assert config.secrets.imap_password.get_secret_value() == "from the file"
    assert config.secrets.anthropic_api_key.get_secret_value() == "key"


XOAUTH2 = 'auth = "xoauth2"'
COMMAND = 'token_command = ["/usr/local/bin/token", "--scope", "mail"]'


def test_xoauth2_wants_a_command_and_no_password() -> None:
    key = {"ANTHROPIC_API_KEY": "key"}
    bare = SMALL.replace("[smtp]", f"{XOAUTH2}\n[smtp]\n{XOAUTH2}")
    assert [fault.partition(" ")[0] for fault in faults(bare, key)] == [
        "imap.token_command",
        "smtp.user",
        "smtp.token_command",
    ]
    whole = bare.replace(XOAUTH2, f"{XOAUTH2}\n{COMMAND}") + 'user = "data"\n'
    config = load(whole, key, {})
    assert config.imap.token_command == config.smtp.token_command == ("/usr/local/bin/token", "--scope", "mail")


def test_files_in_memory_leave_room_for_processes() -> None:
    fits = f"{SMALL}\n[sandbox]\nmemory_mb = 500\ntmp_mb = 100\nhome_mb = 50\n"
    assert load(fits, PASSWORD, {}).sandbox.memory_mb == 500
    (fault,) = faults(fits.replace("= 500", "= 499"))
    assert fault.startswith("sandbox.memory_mb is too small")


PLACES = (
    "[secrets]\nimap_password = '%s'",
    "[imap]\npassword = '%s'",
    "[mail]\naddress = '%s'",
    "[model]\nname = ['%s']",
)


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_in_the_file_is_a_fault_that_does_not_repeat_it(place: str) -> None:
    assert "hunter two" not in "\n".join(faults(place % "hunter two"))


def test_secrets_do_not_show() -> None:
    config = load(SMALL, PASSWORD, {})
    assert "correct horse" not in repr(config) + str(config) + config.model_dump_json()
    assert all(isinstance(value, SecretStr) for value in dict(config.secrets).values())


def test_proof_needs_the_name_of_the_server_that_writes_it() -> None:
    rule = "[[allow]]\ndomains = ['Example.ORG']\n"
    (fault,) = faults(SMALL + rule)
    assert fault.startswith("mail.authserv_id is missing")
    assert load(SMALL + rule + "proof = 'none'\n", PASSWORD, {}).allow[0].domains == ("example.org",)
    named = SMALL.replace("[imap]", "authserv_id = 'mx.example.org'\n[imap]")
    assert load(named + rule, PASSWORD, {}).allow[0].proof == "authenticated"
    machines = f"{rule}proof = 'none'\nmachines = true\n"
    (fault,) = faults(SMALL + machines)
    assert fault.startswith("mail.authserv_id is missing")
    assert load(named + machines, PASSWORD, {}).allow[0].machines


def test_limits_are_positive_and_skills_are_named_as_skills_are() -> None:
    rule = (
        "[[allow]]\nproof = 'none'\nmails_per_day = 0\ndollars_per_day = nan\nmax_message_mb = -1\nskills = ['../x']\n"
    )
    found = faults(f"{SMALL}[limits]\nthread_turns = 0\n{rule}")
    assert [fault.split()[0].rstrip(":") for fault in found] == [
        *(f"allow.0.{key}" for key in ("skills.0", "mails_per_day", "dollars_per_day", "max_message_mb")),
        "limits.thread_turns",
    ]


@pytest.mark.parametrize("table", ["imap", "smtp"])
@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.8.7", True), ("::1", True)]
    + [(far, False) for far in ("imap.example.org", "127.0.0.1.example.org", "10.0.0.1", "localhost.example.org", "")],
)
def test_cleartext_stays_on_this_machine(table: str, host: str, local: bool) -> None:
    text = SMALL.replace(f'host = "{table}.example.org"', f'host = "{host}"\nsecurity = "none"')
    assert is_loopback(host) is local
    if local:
        load(text, PASSWORD, {})
    else:
        (fault,) = faults(text)
        assert fault.startswith(f"{table}.security")


@pytest.mark.parametrize(
    ("listen", "fault"),
    [("", ""), ("/run/x/lmtp.sock", ""), ("127.0.0.1:24", ""), ("[::1]:2424", ""), ("localhost:2424", "")]
    + [(far, "lmtp.listen is for loopback only") for far in ("0.0.0.0:24", "[::]:24", "mx.example.org:24")]
    + [(odd, "lmtp.listen has not the form") for odd in ("run/lmtp.sock", "127.0.0.1", "24", f"/{'x' * 100}", "/a b")],
)
def test_lmtp_stays_on_this_machine(listen: str, fault: str) -> None:
    text = f"{SMALL}[lmtp]\nlisten = {json.dumps(listen)}\n"
    if fault:
        assert [said.startswith(fault) for said in faults(text)] == [True]
    else:
        assert load(text, PASSWORD, {}).lmtp.listen == listen


@pytest.mark.parametrize("domain", ["*.example.org", "example.*", "?.org", "a@example.org", "one.org,two.org"])
def test_a_domain_that_would_match_nothing_is_a_fault(domain: str) -> None:
    assert any(
        "domains" in said and "has not the form" in said
        for said in faults(f"{SMALL}[[allow]]\ndomains = ['{domain}']\n")
    )


@pytest.mark.parametrize("name", ["mx.exämple.org", "mx example.org"])
def test_an_authserv_id_that_no_field_can_hold_is_a_fault(name: str) -> None:
    text = SMALL.replace("[mail]", f"[mail]\nauthserv_id = '{name}'", 1)
    assert any(said.startswith("mail.authserv_id has not the form") for said in faults(text))


KEYS = st.sampled_from(["host", "security", "address", "user", "proof", "port", "x"])
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text("abc@.\n\"'é😀 ", max_size=20)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner), max_leaves=8)


def toml(value: object) -> str:
    """The value as TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


@given(st.dictionaries(st.sampled_from([*Config.model_fields, "x"]), VALUES | st.dictionaries(KEYS, PLAIN)))
def test_whatever_the_file_holds_the_faults_are_in_words(tree: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {toml(value)}" for key, value in tree.items())
    assert tomllib.loads(text).keys() == tree.keys()
    for fault in faults(text, {}):
        assert fault.strip()
        assert "pydantic" not in fault


@pytest.mark.parametrize("where", ["", "/srv/blobs", "s3://bucket", "s3://bucket/one/two"])
def test_where_blobs_may_be(where: str) -> None:
    assert Storage(blobs=where).blobs == where


@pytest.mark.parametrize("where", ["blobs", "s3:/bucket", "https://bucket", "s3:///nothing"])
def test_where_blobs_may_not_be(where: str) -> None:
    with pytest.raises(ValidationError):
        Storage(blobs=where)


def test_hosts_that_share_files_share_the_key_of_reply_tokens() -> None:
    text = SMALL.replace("[mail]", "[mail]\nplus_addressing = true") + '[storage]\nblobs = "s3://bucket"\n'
    assert any("reply tokens" in fault for fault in faults(text, PASSWORD))
    load(text, {**PASSWORD, "MAILAGENT_TOKEN_KEY": "00" * 32}, {})


def test_nothing_is_left_undefined() -> None:
    missing = {
        (name, key)
        for name, _, part in tables()
        for key, field in part.model_fields.items()
        if field.get_default(call_default_factory=True) is PydanticUndefined
    }
    assert missing == set(EXAMPLES)


if __name__ == "__main__":
    print("\n".join(written()))

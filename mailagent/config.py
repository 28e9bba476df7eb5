"""Every setting: TOML text and secrets in, a frozen Config or the list of all faults out."""

import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from mailagent.core.errors import ConfigError

Security = Literal["tls", "starttls", "none"]
Auth = Literal["password", "xoauth2"]
Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[float, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Address = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[^@\s<>\"]+@[^@\s<>\"]+$")]
Domain = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[^@\s*?,/]+$")]  # no wildcards: nothing would match
Token = Annotated[str, StringConstraints(pattern=r"^[!-~]*$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+")]
Skill = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]

Place = Annotated[str, StringConstraints(pattern=r"^(|/.*|s3://[^/\s]+(/[^\s]*)?)$")]
Listen = Annotated[str, StringConstraints(pattern=r"^(|/[^\s]{1,99}|[^/\s]+:\d{1,5})$")]  # sun_path: 108 bytes, unix(7)


ANTHROPIC = "https://api.anthropic.com"


class Part(BaseModel):
    """A table of the file: frozen, and a key that it does not know is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, hide_input_in_errors=True)


class Mail(Part):
    """[mail] – the address that is served."""

    address: Address = Field(description="The address that people write to; replies come from it.")
    name: str = Field("mailagent", description="The display name of replies.")
    folder: str = Field("INBOX", description="The mailbox that is watched.")
    start: Literal["new", "unseen", "all"] = Field(
        "new",
        description="What the very first start takes over: only mail that arrives later, the unread, or all.",
    )
    authserv_id: Token = Field(
        "", description="The name under which your receiving server writes Authentication-Results (RFC 8601)."
    )
    plus_addressing: bool = Field(
        False,
        description="The server delivers address+anything to address; replies then carry a signed Reply-To.",
    )
    max_message_mb: Positive = Field(36.0, description="A larger message is refused, in megabytes.")
    cc: Literal["allowed", "none"] = Field(
        "allowed", description="Which of the people in Cc get the reply too: those whom an allow rule covers, or none."
    )
    processed_folder: str = Field("", description='Where handled mail is moved; "" leaves it where it is.')
    refused_folder: str = Field("", description='Where mail without an answer is moved; "" leaves it where it is.')
    held_folder: str = Field("", description='Where mail that needs a person is moved; "" leaves it where it is.')


class Imap(Part):
    """[imap] – where mail is read; its password is MAILAGENT_IMAP_PASSWORD or credential imap-password."""

    host: str = Field(description="The IMAP server.")
    port: Port = Field(993, description="Its port.")
    security: Security = Field("tls", description='"tls", "starttls", or "none" (loopback only).')
    user: str = Field(description="The login name.")
    auth: Auth = Field("password", description='"password", or "xoauth2" (Gmail, Microsoft 365).')
    token_command: tuple[str, ...] = Field(
        (), description="For xoauth2: a program and its arguments; it prints an access token, at each connect."
    )
    ca_file: str = Field("", description='A file of certificate authorities to trust; "" for the system\'s.')
    idle_seconds: Positive = Field(240.0, description="The mailbox is looked at this often even if IDLE is silent.")
    timeout_seconds: Positive = Field(30.0, description="How long one answer of the server may take.")


class Smtp(Part):
    """[smtp] – the server that takes replies; its password is MAILAGENT_SMTP_PASSWORD or credential smtp-password."""

    host: str = Field(description="The submission server (RFC 6409).")
    port: Port = Field(465, description="Its port.")
    security: Security = Field("tls", description='"tls", "starttls", or "none" (loopback only).')
    user: str = Field("", description='The login name; "" for a server that asks for none.')
    auth: Auth = Field("password", description='"password", or "xoauth2" (Gmail, Microsoft 365).')
    token_command: tuple[str, ...] = Field(
        (), description="For xoauth2: a program and its arguments; it prints an access token, at each connect."
    )
    ca_file: str = Field("", description='A file of certificate authorities to trust; "" for the system\'s.')
    timeout_seconds: Positive = Field(60.0, description="How long one answer of the server may take.")
    sent_copy: Literal["auto", "always", "never"] = Field(
        "auto", description="Append replies to the Sent folder: unless the server did, always, never."
    )
    uncertain_seconds: Positive = Field(
        60.0,
        description="When it is uncertain whether the server took a reply, a copy is looked for in Sent after this.",
    )
    on_uncertain: Literal["resend", "hold"] = Field(
        "resend", description="If none is there: send the same bytes once more, or hold the mail for a person."
    )


class Lmtp(Part):
    """[lmtp] – mail that a server on this machine hands over (RFC 2033), beside the mailbox."""

    listen: Listen = Field(
        "", description='A socket\'s path, or a loopback address and a port like "127.0.0.1:2424"; "" for none.'
    )
    recipients: tuple[Address, ...] = Field(
        (), description="The addresses that are taken, with any +tag; mail.address if none is here."
    )
    trust_dkim: bool = Field(
        True,
        description="Check DKIM here and drop what claims to be from authserv_id; false if that server writes it.",
    )


class Allow(Part):
    """[[allow]] – who is answered; repeat the table for more rules. Without one, nobody is."""

    addresses: tuple[Address, ...] = Field((), description="Addresses that may write.")
    domains: tuple[Domain, ...] = Field((), description="Domains whose every address may write.")
    proof: Literal["authenticated", "none"] = Field(
        "authenticated",
        description="What a sender must show: dmarc=pass or aligned dkim=pass by authserv_id; or nothing (tests).",
    )
    machines: bool = Field(
        False,
        description="Whether mail that a machine wrote is answered too, say a nightly export; it must be proven.",
    )
    skills: tuple[Skill, ...] = Field((), description="The skills that work for these senders; [] for all there are.")
    mails_per_day: Count = Field(40, description="Mails that are answered, for each sender and day (UTC).")
    requests_per_day: Count = Field(1_000, description="Requests to the model, for each sender and day.")
    tokens_per_day: Count = Field(2_000_000, description="Tokens that answers may use, for each sender and day.")
    dollars_per_day: Positive = Field(20.0, description="US dollars that answers may cost, for each sender and day.")
    max_message_mb: Annotated[float, Field(ge=0)] = Field(
        0.0, description="A larger message is refused, in megabytes; 0 for mail.max_message_mb, the most there is."
    )


class Limits(Part):
    """[limits] – what ends a loop that no sign gave away, and what anybody may use of the model."""

    sender_mails_per_hour: Count = Field(10, description="Mails of one sender that are answered within an hour.")
    thread_turns: Count = Field(30, description="Answers in one thread.")
    mails_per_hour: Count = Field(
        300, description="Mails of all senders taken over within an hour; more wait in the mailbox until it has passed."
    )
    waiting_mails: Count = Field(500, description="Mails that may wait for the agent; more wait in the mailbox.")
    turn_requests: Count = Field(100, description="Requests to the model for one mail, all attempts together.")
    turn_tokens: Count = Field(2_000_000, description="Tokens for one mail, read and written.")
    turn_dollars: Positive = Field(5.0, description="US dollars for one mail.")
    thread_requests: Count = Field(1_000, description="Requests to the model in one thread.")
    thread_tokens: Count = Field(20_000_000, description="Tokens in one thread.")
    thread_dollars: Positive = Field(50.0, description="US dollars in one thread.")
    requests_per_day: Count = Field(10_000, description="Requests to the model for all senders together, a day (UTC).")
    tokens_per_day: Count = Field(100_000_000, description="Tokens for all senders together, a day.")
    dollars_per_day: Positive = Field(200.0, description="US dollars for all senders together, a day.")


class Model(Part):
    """[model] – the Messages API to think with; its key is ANTHROPIC_API_KEY or the credential anthropic-api-key."""

    base_url: Url = Field(ANTHROPIC, description="The server; any that speaks the Messages API.")
    name: str = Field("claude-sonnet-4-5", description="The model.")
    notice: str = Field(
        "", description='A line at the foot of every reply, say what kind of model answers; "" for none.'
    )
    ca_file: str = Field("", description='A file of certificate authorities to trust; "" for the system\'s.')
    max_tokens: Count = Field(32_000, description="Tokens that one model request may write.")
    context_tokens: Annotated[int, Field(ge=50_000)] = Field(
        200_000,
        description="Tokens that the model can read at once; 33,000 before, a conversation goes on from a summary.",
    )
    timeout_seconds: Positive = Field(600.0, description="How long one model request may take.")
    # The list price of the model above in November 2026.
    price_input: Price = Field(3.0, description="US dollars for a million tokens read; set these with the model.")
    price_output: Price = Field(15.0, description="For a million tokens written.")
    price_cache_write: Price = Field(3.75, description="For a million tokens put into the cache (for 5 minutes).")
    price_cache_read: Price = Field(0.3, description="For a million tokens read from the cache.")


class Agent(Part):
    """[agent] – one turn of the agent."""

    max_sessions: Count = Field(
        2, description="Turns that run at once, while the machine has 300 MB free for each more."
    )
    turn_seconds: Positive = Field(900.0, description="The deadline of one turn.")
    max_steps: Count = Field(40, description="Model answers in one turn, tool calls included.")
    attempts: Count = Field(
        3, description="How often a turn that fails is tried; then the sender gets an apology, and the mail is held."
    )
    retry_seconds: Positive = Field(
        20.0, description="The wait before the second attempt; doubled for each one after it."
    )
    drain_seconds: Positive = Field(60.0, description="How long a stopping daemon waits for running turns.")


class Sandbox(Part):
    """[sandbox] – what code in it gets."""

    backend: Literal["bubblewrap", "gvisor"] = Field(
        "bubblewrap",
        description="\"gvisor\" puts gVisor's kernel between code in a sandbox and this machine's: stronger, slower.",
    )
    bwrap: str = Field("bwrap", description="The bubblewrap program.")
    runsc: str = Field("runsc", description="The program of gVisor.")
    analysis: str = Field(
        "",
        description='The analysis environment; "" for the directory analysis or .analysis beside the daemon\'s own.',
    )
    memory_mb: Count = Field(2048, description="Memory that one sandbox may take, in megabytes.")
    tmp_mb: Count = Field(256, description="The size of /tmp and of /dev/shm, in megabytes of that memory.")
    home_mb: Count = Field(128, description="The size of the home directory, in megabytes of that memory.")
    disk_mb: Count = Field(1024, description="What one sandbox may write to disk, in megabytes.")
    files: Count = Field(20_000, description="How many files and directories it may make there.")
    processes: Annotated[int, Field(ge=100)] = Field(
        400, description="Processes, threads included, that one sandbox may have; the agent itself needs about 30."
    )
    cpus: Positive = Field(2.0, description="Processors that one sandbox may keep busy.")
    max_out_mb: Positive = Field(20.0, description="What one answer may leave in out/, in megabytes.")
    max_out_files: Count = Field(50, description="How many files one answer may leave in out/.")
    command_seconds: Positive = Field(120.0, description="How long one command of the agent may run.")


class Redis(Part):
    """[redis] – where jobs and transcripts are kept."""

    url: str = Field(
        "", description='A Redis >= 7, see docs/operations.md for all forms; "" starts a private one as a child.'
    )
    server: str = Field("redis-server", description="The program of the private one.")
    lease_seconds: Positive = Field(
        30.0, description="A daemon that is silent for this long loses its turns to another."
    )


class Storage(Part):
    """[storage] – files."""

    state_dir: str = Field(
        "/var/lib/mailagent", description="Workspaces, blobs and the private Redis; backed up whole."
    )
    blobs: Place = Field(
        "",
        description='Where files are kept: "" for state_dir/blobs, a path, or "s3://bucket/prefix" for several hosts.',
    )
    runtime_dir: str = Field(
        "/run/mailagent",
        max_length=60,  # sun_path holds 108 bytes, unix(7)
        description="Sockets; emptied at each start.",
    )
    min_free_mb: Annotated[float, Field(ge=0)] = Field(
        500.0, description="With less than this free on the disk of state_dir no mail is taken over, in megabytes."
    )
    retention_days: Count = Field(90, description="Threads silent for this long are forgotten.")


class Secrets(Part):
    """Never in the file: from the environment, or from files in $CREDENTIALS_DIRECTORY (systemd.exec(5))."""

    imap_password: SecretStr = SecretStr("")
    smtp_password: SecretStr = SecretStr("")
    anthropic_api_key: SecretStr = SecretStr("")
    token_key: SecretStr = SecretStr("")
    aws_access_key_id: SecretStr = SecretStr("")
    aws_secret_access_key: SecretStr = SecretStr("")


class Config(Part):
    """Everything that can be set."""

    mail: Mail
    imap: Imap
    smtp: Smtp
    lmtp: Lmtp = Lmtp()
    allow: tuple[Allow, ...] = ()
    limits: Limits = Limits()
    model: Model = Model()
    agent: Agent = Agent()
    sandbox: Sandbox = Sandbox()
    redis: Redis = Redis()
    storage: Storage = Storage()
    secrets: Secrets = Secrets()


SECRETS = {
    "imap_password": ("MAILAGENT_IMAP_PASSWORD", "imap-password"),
    "smtp_password": ("MAILAGENT_SMTP_PASSWORD", "smtp-password"),
    "anthropic_api_key": ("ANTHROPIC_API_KEY", "anthropic-api-key"),
    "token_key": ("MAILAGENT_TOKEN_KEY", "token-key"),
    "aws_access_key_id": ("AWS_ACCESS_KEY_ID", "aws-access-key-id"),
    "aws_secret_access_key": ("AWS_SECRET_ACCESS_KEY", "aws-secret-access-key"),
}
"""Secret -> (environment variable, file in $CREDENTIALS_DIRECTORY); the file wins."""


def load(text: str, environment: Mapping[str, str], credentials: Mapping[str, str]) -> Config:
    """The settings in this TOML text with the secrets from beside it.

    Raises ConfigError with every fault at once, each naming its key and the mend."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the file is not valid TOML: {error}") from error
    faults = [f"secrets do not belong into the file: set {_secret_names()}"] if "secrets" in raw else []
    secrets = {
        key: (credentials.get(file, "").strip() or environment.get(variable, "").strip())
        for key, (variable, file) in SECRETS.items()
    }
    faults += _contradictions(raw, secrets)
    try:
        config = Config.model_validate({**raw, "secrets": secrets})
    except ValidationError as error:
        raise ConfigError(*(_plain(e["loc"], e["msg"], e["type"]) for e in error.errors()), *faults) from None
    if faults:
        raise ConfigError(*faults)
    return config


def _plain(where: tuple[int | str, ...], message: str, kind: str) -> str:
    key = ".".join(str(part) for part in where)
    if kind == "missing":
        return f"{key} is missing: add it (config/mailagent.toml shows every key)"
    if kind == "extra_forbidden":
        return f"{key} is not a setting: remove it or mend its spelling"
    if kind == "string_pattern_mismatch":
        return f"{key} has not the form that config/mailagent.toml shows: mend it"
    return f"{key}: {message[:1].lower()}{message[1:]}"


def _contradictions(raw: dict[str, Any], secrets: Mapping[str, str]) -> list[str]:
    # Read from the raw tables: a fault of a single key elsewhere must not hide these.
    tables = {name: table for name, table in raw.items() if isinstance(table, dict)}
    mail, smtp = tables.get("mail", {}), tables.get("smtp", {})
    rules = raw["allow"] if isinstance(raw.get("allow"), list) else []
    faults = []
    for name in ("imap", "smtp"):
        server = tables.get(name, {})
        if server.get("security") == "none" and not is_loopback(str(server.get("host", "localhost"))):
            faults.append(f'{name}.security = "none" is for loopback only: use "tls" or "starttls"')
        if server.get("auth") == "xoauth2":
            wanted = ("user", "token_command") if name == "smtp" else ("token_command",)
            faults += [f'{name}.{key} is missing: auth = "xoauth2" needs it' for key in wanted if not server.get(key)]
    listen = str(tables.get("lmtp", {}).get("listen", ""))
    if ":" in listen and not listen.startswith("/") and not is_loopback(listen.rpartition(":")[0].strip("[]")):
        faults.append('lmtp.listen is for loopback only: use a path, or an address like "127.0.0.1:2424"')
    base_url = str(tables.get("model", {}).get("base_url", ANTHROPIC))
    if base_url == ANTHROPIC and not secrets["anthropic_api_key"]:
        faults.append("the model's key is missing: set ANTHROPIC_API_KEY or the credential anthropic-api-key")
    if tables.get("imap", {}).get("auth") != "xoauth2" and not secrets["imap_password"]:
        faults.append("the IMAP password is missing: set MAILAGENT_IMAP_PASSWORD or the credential imap-password")
    if smtp.get("auth") != "xoauth2" and smtp.get("user") and not secrets["smtp_password"]:
        faults.append("the SMTP password is missing: set MAILAGENT_SMTP_PASSWORD or the credential smtp-password")
    if str(tables.get("storage", {}).get("blobs", "")).startswith("s3://"):
        faults += _apart(tables, secrets)
    faults += _sizes({**Sandbox().model_dump(), **tables.get("sandbox", {})})
    asked = any(isinstance(rule, dict) and (rule.get("proof") != "none" or rule.get("machines")) for rule in rules)
    if asked and not mail.get("authserv_id"):
        faults.append("mail.authserv_id is missing: an allow rule asks for proof, which only your own server can write")
    return faults


def _apart(tables: Mapping[str, dict[str, Any]], secrets: Mapping[str, str]) -> list[str]:
    """What hosts that share their files must share too."""
    if tables.get("mail", {}).get("plus_addressing") and not secrets["token_key"]:
        return ["storage.blobs is shared, but each host would sign reply tokens with a key of its own: give all one"]
    return []


def _sizes(sandbox: Mapping[str, Any]) -> list[str]:
    """Files in memory are not freed when a process is killed: they must leave room for processes."""
    memory, tmp, home = (sandbox[key] for key in ("memory_mb", "tmp_mb", "home_mb"))
    if all(isinstance(size, int) for size in (memory, tmp, home)) and 2 * (2 * tmp + home) > memory:
        return ["sandbox.memory_mb is too small: twice tmp_mb, and home_mb, must fit into half of it"]
    return []


def is_loopback(host: str) -> bool:
    """True for names and addresses that never leave this machine (RFC 6761 section 6.3, RFC 1122 section 3.2.1.3)."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret_names() -> str:
    return ", ".join(f"{variable} (or the credential {file})" for variable, file in SECRETS.values())

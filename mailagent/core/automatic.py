"""Why a machine wrote a mail: what no reply may go to, or two machines would write to each other for ever."""

import re
from email.message import Message

from mailagent.core.headers import field, fields

LOOP_FIELD = "X-MailAgent-Loop"
"""The field that every mail of ours carries, with the name of the instance that sent it."""

OUR_ID = re.compile(r"<ma\.[a-z2-7]{16}(?:\.\d+)?@[^>]+>")
"""A Message-ID that `compose.reply_id` made."""

_MACHINES = re.compile(r"(?:mailer-daemon|postmaster|(?:no|do[-_.]?not)[-_.]?reply)(?:[-+_.].*)?@.*")
_PRECEDENCE = re.compile(r"(?:bulk|junk|list|auto[-_]reply)\b")
_SIGNS_OF_ANSWERS = ("X-Failed-Recipients", "X-Autoreply", "X-Autorespond", "X-Autoresponder")
_SIGNS = ("List-Id", "List-Post", "List-Unsubscribe", "X-Auto-Response-Suppress")
_AWAY = re.compile(
    r"(?:out of (?:the )?office|automatic reply|auto(?:matic)?[ -]?reply|auto(?:matic)? ?response|autoreply"
    r"|automatische antwort|abwesenheits(?:notiz|nachricht|meldung)|abwesend|nicht im büro"
    r"|réponse automatique|absence du bureau|absent du bureau"
    r"|respuesta automática|fuera de la oficina"
    r"|resposta automática|fora do escritório|ausência temporária"
    r"|risposta automatica|fuori (?:sede|ufficio)"
    r"|automatisch antwoord|afwezig(?:heid)?|afwezigheidsbericht"
    r"|autosvar|automatiskt? svar|frånvaro"
    r"|automaattinen vastaus|poissa"
    r"|automatyczna odpowiedź|automatická odpověď|automatikus válasz"
    r"|автоматический ответ|автоответ|нет на месте"
    r"|自動応答|自動返信|自动答复|自动回复)"
    r"(?: ?(?:autoreply|auto-reply|re))?\s*(?:[:：]|$)",
    re.IGNORECASE,
)
"""Subjects of out-of-office notes; a colon or the end must follow, or a question about absences would be one."""


def automatic(message: Message, sender: str, subject: str) -> str:
    """The reason why no person wrote this mail, "" when nothing says so (RFC 3834, RFC 2369, RFC 3464, RFC 5965).

    What makes it an answer of a machine or our own mail is told before what makes it any other mail of a machine,
    since a rule may admit only the latter (`screen`)."""
    return _answer(message, subject) or _other(message, sender)


def _answer(message: Message, subject: str) -> str:
    if fields(message, LOOP_FIELD):
        return "it carries our own loop mark"
    if OUR_ID.fullmatch(field(message, "message-id")):
        return "its Message-ID is one of ours"
    if any(value.strip() in ("", "<>") for value in fields(message, "return-path")):
        return "its Return-Path is empty"
    if message.get_content_type() == "multipart/report":
        return "it is a report about another mail"
    if any(_keyword(value) == "auto-replied" for value in fields(message, "auto-submitted")):
        return "it answers another mail by itself"
    if sign := next((name for name in _SIGNS_OF_ANSWERS if fields(message, name)), ""):
        return f"it has the field {sign}"
    return "its subject is that of an out-of-office note" if _AWAY.match(subject) else ""


def _other(message: Message, sender: str) -> str:
    if any(_keyword(value) != "no" for value in fields(message, "auto-submitted")):
        return "Auto-Submitted says so"
    precedence = fields(message, "precedence") + fields(message, "x-precedence")
    if any(_PRECEDENCE.match(value.strip().lower()) for value in precedence):
        return "its Precedence is that of bulk mail"
    if sign := next((name for name in _SIGNS if fields(message, name)), ""):
        return f"it has the field {sign}"
    return "its sender is the address of a machine" if _MACHINES.fullmatch(sender) else ""


def _keyword(value: str) -> str:
    """The keyword of Auto-Submitted (RFC 3834 section 5.2) without comments and parameters."""
    return re.split(r"[;(\s]", value.strip().lower(), maxsplit=1)[0]

"""A Reply to the bytes of one mail: to the sender alone, in the thread, marked as automatic, the same each time."""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP
from email.utils import format_datetime

from mailagent.core.automatic import LOOP_FIELD
from mailagent.core.headers import CONTROL
from mailagent.core.thread import answered, references_for
from mailagent.core.values import Attachment, Image, Inbound, Outgoing, Reply

MAX_FIELD = 200

_WIRE = SMTP.clone(cte_type="7bit", max_line_length=76)
"""CRLF, lines as short as encoded ones must be (RFC 2045 section 6.7, RFC 2047 section 2), and nothing beyond ASCII: no
server on the way need know 8BITMIME (RFC 6152)."""

_MEDIA_TYPE = re.compile(r"(?:text|image|audio|video|application)/[a-z0-9][a-z0-9!#$&^_.+-]{0,120}")
_REPLY_PREFIXES = re.compile(r"\s*(?:(?:re|aw|antw|sv|vs|rif|odp|res)(?:\[\d+\])?\s*[:：]\s*)+", re.IGNORECASE)


def reply_id(job_id: str, domain: str, again: int = 0) -> str:
    """The Message-ID of the reply to a job: made of the job alone, so that a second attempt is the same mail; another
    one for each time that a person had it answered `again`."""
    return f"<ma.{job_id}{f'.{again}' if again else ''}@{domain}>"


def compose(
    reply: Reply,
    *,
    inbound: Inbound,
    sender: str,
    sender_name: str,
    message_id: str,
    date: float,
    instance: str,
    reply_to: str = "",
    also: Sequence[str] = (),
    cc: tuple[str, ...] = (),
) -> Outgoing:
    """The reply frozen: `multipart/mixed(related(alternative(text, html), images), attachments)` without the levels
    that would hold one thing only, to `inbound.sender` and nobody else, whatever the mail asked for: `cc` says who
    else is shown as a recipient, and the envelope stays the caller's business.

    `reply_to` is where answers should go, "" for the sender; `also` are the Message-IDs of other mails of the thread
    that this reply answers, the oldest first: `inbound` is the newest.

    Same arguments, same bytes. It is marked so that no machine answers it (RFC 3834 section 5)."""
    message = EmailMessage(policy=_WIRE)
    message["From"] = Address(display_name=clean(sender_name), addr_spec=sender)
    message["To"] = Address(addr_spec=inbound.sender)
    if cc:
        message["Cc"] = [Address(addr_spec=one) for one in cc]
    if reply_to:
        message["Reply-To"] = Address(display_name=clean(sender_name), addr_spec=reply_to)
    message["Subject"] = subject_for(inbound.subject)
    message["Date"] = format_datetime(datetime.fromtimestamp(date, UTC))
    message["Auto-Submitted"] = "auto-replied"
    message["X-Auto-Response-Suppress"] = "All"
    message[LOOP_FIELD] = clean(instance)
    message["MIME-Version"] = "1.0"
    body = _body(reply, hashlib.sha256(message_id.encode()).hexdigest()[:24])
    for name, value in body.items():
        message[name] = value
    message.set_payload(body.get_payload())
    ids = _id_fields(message_id, answered(inbound), references_for(inbound, also))
    return Outgoing(message_id, sender, inbound.sender, ids + message.as_bytes())


def clean(value: str) -> str:
    """A field value without line breaks and controls, cut: no mail text can add a field to ours."""
    # The standard library decodes an encoded word inside an encoded one once more; what comes out may be no text.
    return " ".join(CONTROL.sub(" ", value).replace("=?", "= ?").split())[:MAX_FIELD].strip()


def subject_for(subject: str) -> str:
    """The subject of the reply: one "Re:" (RFC 5322 section 3.6.5), however many, in whatever language, there were."""
    return f"Re: {_REPLY_PREFIXES.sub('', clean(subject), count=1)}".strip()


def _id_fields(message_id: str, in_reply_to: tuple[str, ...], references: tuple[str, ...]) -> bytes:
    """Written by hand, an id a line: CPython encodes ids that do not fit into one (gh-79986), as Outlook's do not, and
    Outlook then knows the thread no more. Each matches MESSAGE_ID or is made by us: there is nothing to encode."""
    named = {"Message-ID": (message_id,), "In-Reply-To": in_reply_to, "References": references}
    lines = [f"{name}: " + "\r\n ".join(ids) for name, ids in named.items() if ids]
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def _body(reply: Reply, mark: str) -> MIMEPart:
    """The parts of the reply, one in the other (RFC 2046 section 5.1, RFC 2387)."""
    texts = [_text(reply.text, "plain")]
    if reply.html:
        texts.append(_text(reply.html, "html"))
    shown = [_joined("alternative", texts, mark), *map(_image, reply.images)]
    return _joined("mixed", [_joined("related", shown, mark), *map(_file, reply.attachments)], mark)


def _joined(kind: str, parts: list[MIMEPart], mark: str) -> MIMEPart:
    """The parts as one multipart; a single part stays alone."""
    if len(parts) == 1:
        return parts[0]
    whole = MIMEPart(policy=_WIRE)
    # "=_" stands in no quoted-printable and no base64 (RFC 2045 section 6.7), and nobody can foresee the mark.
    whole["Content-Type"] = f'multipart/{kind}; boundary="=_{kind}_{mark}"'
    whole.set_payload([*parts])
    return whole


def _text(text: str, subtype: str) -> MIMEPart:
    part = MIMEPart(policy=_WIRE)
    part.set_content(text, subtype=subtype)
    return part


def _image(image: Image) -> MIMEPart:
    part, cid = MIMEPart(policy=_WIRE), f"<{clean(image.content_id)}>"
    part.set_content(image.data, "image", "png", disposition="inline", filename=clean(image.name), cid=cid)
    return part


def _file(attachment: Attachment) -> MIMEPart:
    kind = attachment.media_type if _MEDIA_TYPE.fullmatch(attachment.media_type) else "application/octet-stream"
    maintype, subtype = kind.split("/")
    part = MIMEPart(policy=_WIRE)
    part.set_content(attachment.data, maintype, subtype, disposition="attachment", filename=clean(attachment.name))
    return part

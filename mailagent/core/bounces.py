"""Which of our mails came back: reads the delivery status notifications of mail servers (RFC 3464, RFC 6522)."""

from email.message import Message
from email.parser import BytesHeaderParser

from mailagent.core.headers import MESSAGE_ID, CutFields, field, fields

_RETURNED = ("message/rfc822", "message/global")
_RETURNED_FIELDS = ("text/rfc822-headers", "message/global-headers")


def bounces(message: Message) -> tuple[str, ...]:
    """The Message-IDs of the mails that this report returns as undelivered; none when it only says that one is late or
    was delivered (RFC 3464 section 2.3.3), and for every other mail."""
    if not is_report(message):
        return ()
    payload = message.get_payload()
    parts = [part for part in payload if isinstance(part, Message)] if isinstance(payload, list) else []
    if not any(map(_says_failed, parts)):
        return ()
    ids = (field(returned, "message-id") for part in parts if (returned := _returned(part)) is not None)
    return tuple(dict.fromkeys(one for one in ids if MESSAGE_ID.fullmatch(one)))


def is_report(message: Message) -> bool:
    """True for a report on another mail that a mail server may have sent: those carry no return path (RFC 3464 section
    2, RFC 5321 section 4.5.5), which whoever delivered it has noted on top."""
    genuine = all(path.strip() in ("", "<>") for path in fields(message, "return-path"))
    return genuine and message.get_content_type() == "multipart/report"


def _says_failed(part: Message) -> bool:
    payload = part.get_payload()
    if part.get_content_type() != "message/delivery-status" or not isinstance(payload, list):
        return False
    return any(field(block, "action").lower().startswith("failed") for block in payload if isinstance(block, Message))


def _returned(part: Message) -> Message | None:
    """The header of the mail that came back, None when this part is not it."""
    payload = part.get_payload()
    if part.get_content_type() in _RETURNED and isinstance(payload, list):
        return next((child for child in payload if isinstance(child, Message)), None)
    if part.get_content_type() not in _RETURNED_FIELDS:
        return None
    if isinstance(payload, list):  # the standard parser reads every message/* as a message
        return next((child for child in payload if isinstance(child, Message)), None)
    data = part.get_payload(decode=True)
    return BytesHeaderParser(policy=CutFields()).parsebytes(data) if isinstance(data, bytes) else None

"""Opens winmail.dat, in which Outlook hides attachments (MS-OXTNEF), where the optional package tnefparse is there."""

import struct
from importlib import import_module
from typing import Any

MEDIA_TYPES = ("application/ms-tnef", "application/vnd.ms-tnef")

_STUMBLES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What tnefparse was seen to raise on broken files, or may, beside struct.error and ImportError."""


def opened(data: bytes) -> list[tuple[str, bytes]] | None:
    """Names, as the sender wrote them, and bytes of the files inside, none when it only says how the text looks; None
    when it cannot be opened."""
    try:
        # Only here, so that only the process that reads mail ever loads it.
        tnef = import_module("tnefparse").TNEF(data, do_checksum=False)
        files = _files(tnef)
    except (ImportError, struct.error, *_STUMBLES):
        return None
    # It takes anything for attributes; these are the ones there are (MS-OXTNEF section 2.1.3.2).
    whole = all(one.name in tnef.codes for one in tnef.objects)
    return files if files or whole else None


def _files(tnef: Any) -> list[tuple[str, bytes]]:
    files = []
    for attachment in tnef.attachments:
        if hasattr(attachment, "embed"):  # a message forwarded in it
            files += _files(attachment.embed)
        elif isinstance(attachment.data, bytes):
            files.append((_name(attachment), attachment.data))
    return files


def _name(attachment: Any) -> str:
    try:
        name = attachment.long_filename()
    except UnicodeDecodeError:  # of ATTACHTITLE, which has no charset of its own
        return str(attachment._name, "cp1252", "replace").strip("\0")
    return name.strip("\0") if isinstance(name, str) else ""

r"""The folder that is \Sent (RFC 6154): our copies of replies, and the server's, which prove that it took one."""

import re
import ssl

from imapclient import IMAPClient
from imapclient.imapclient import SEEN, SENT

from mailagent.adapters.imap import session
from mailagent.config import Imap
from mailagent.core.errors import TemporaryError
from mailagent.core.values import Outgoing

_SAFE_ID = re.compile(r'<[^\x00-\x20"\\\x7f-\U0010ffff]{1,250}>')
"""A Message-ID that is safe inside a command: imapclient passes CR LF on, and with it any command of a stranger."""


def file(imap: Imap, tls: ssl.SSLContext | None, password: str, mail: Outgoing, *, unless_there: bool) -> None:
    """Append the mail, `unless_there` by its Message-ID; blocks. Raises TemporaryError."""
    with session(imap, tls, password) as client:
        folder = client.find_special_folder(SENT)
        if folder is None:
            raise TemporaryError(f"{imap.host}: the account has no Sent folder")
        if not (unless_there and _holds(client, folder, mail.message_id)):
            client.append(folder, mail.data, flags=[SEEN])


def holds(imap: Imap, tls: ssl.SSLContext | None, password: str, message_id: str) -> bool:
    """Whether the folder is there with a mail of this Message-ID in it; blocks. Raises TemporaryError."""
    with session(imap, tls, password) as client:
        folder = client.find_special_folder(SENT)
        return folder is not None and _holds(client, folder, message_id)


def _holds(client: IMAPClient, folder: str, message_id: str) -> bool:
    if not _SAFE_ID.fullmatch(message_id):
        return False
    client.select_folder(folder, readonly=True)
    return bool(client.search(["HEADER", "Message-ID", message_id]))

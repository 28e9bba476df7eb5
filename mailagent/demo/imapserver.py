"""The IMAP half of the demo's mail server: one session for each connection (IMAP4rev1, RFC 3501)."""

import asyncio
import base64
import contextlib
import inspect
import re
from collections.abc import Awaitable, Mapping
from datetime import datetime

from mailagent.demo.imapwords import Refusal, Token, choose, flag, listed, parse, quoted, reads, search, show, text
from mailagent.demo.mailstore import Account, Faults, Folder, Mail

# RFC 4959, 7888, 2177, 4315, 6851, 2342, 3691 and 6154 in the order of the words after AUTH=PLAIN.
CAPABILITIES = "IMAP4rev1 AUTH=PLAIN SASL-IR LITERAL+ IDLE UIDPLUS MOVE NAMESPACE UNSELECT SPECIAL-USE"
SYSTEM_FLAGS = r"\Answered \Flagged \Deleted \Seen \Draft"
KEPT_FLAGS = SYSTEM_FLAGS + r" \*"
MAX_LITERAL = 64 * 2**20

_LITERAL = re.compile(rb"\{(?P<size>\d+)(?P<plus>\+?)\}\r\n\Z")


class Session:
    """One connection. Sequence numbers count in `_view`, which is what the client was told of; it is told of changes
    only where that may be (RFC 3501 section 7.4.1)."""

    def __init__(
        self,
        accounts: Mapping[str, Account],
        faults: Faults,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._accounts = accounts
        self._faults = faults
        self._reader = reader
        self._writer = writer
        self._account: Account | None = None
        self._folder: Folder | None = None
        self._readonly = False
        self._uidvalidity = 0
        self._view: list[Mail] = []
        self._news = asyncio.Event()
        self._by_uid = False

    async def serve(self) -> None:
        """Answer commands until LOGOUT or the end of the connection, then close it."""
        self._say(f"* OK [CAPABILITY {CAPABILITIES}] ready")
        try:
            with contextlib.suppress(EOFError, ConnectionError):
                while await self._obey(await self._command()):
                    await self._writer.drain()
        finally:
            self._leave()
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    async def _command(self) -> bytes:
        command = line = await self._line()
        while match := _LITERAL.search(line):
            if int(match["size"]) > MAX_LITERAL:
                self._bye("that is too long")
            if not match["plus"]:
                self._say("+ go on")
            line = await self._reader.readexactly(int(match["size"])) + await self._line()
            command += line
        return command

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readline()
        except ValueError:
            self._bye("that line is too long")
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    async def _obey(self, command: bytes) -> bool:
        """Run one command; False when it was the last."""
        name, tag = "", command.split(b" ")[0].decode("latin-1")
        tag = tag if re.fullmatch(r"[\w.]+", tag, re.ASCII) else "*"
        try:
            tokens = parse(command)[1:]
            name = text(tokens.pop(0)).upper()
            self._by_uid = name == "UID"
            if self._by_uid:
                name = text(tokens.pop(0)).upper()
            answer = await self._handler(name, tokens)
        except Refusal as refusal:
            answer = str(refusal)
        except (ValueError, IndexError):
            answer = "BAD the arguments do not fit"
        if self._by_uid or name not in ("FETCH", "STORE", "SEARCH"):
            self._tell_changes()
        self._say(f"{tag} {answer}")
        return name != "LOGOUT"

    def _handler(self, name: str, tokens: list[Token]) -> Awaitable[str]:
        handler = getattr(self, f"do_{name.lower()}", None)
        if handler is None:
            raise Refusal(f"BAD {name} is not known here")
        try:
            inspect.signature(handler).bind(*tokens)
        except TypeError:
            raise Refusal(f"BAD {name} takes other arguments") from None
        answer: Awaitable[str] = handler(*tokens)
        return answer

    def _say(self, line: str | bytes) -> None:
        self._writer.write((line if isinstance(line, bytes) else line.encode("latin-1", "replace")) + b"\r\n")

    def _bye(self, why: str) -> None:
        self._say(f"* BYE {why}")
        raise ConnectionAbortedError(why)

    def _tell_changes(self) -> None:
        """Untagged EXPUNGE and EXISTS for what happened meanwhile."""
        if self._folder is None:
            return
        if self._folder.uidvalidity != self._uidvalidity:
            self._bye("the mailbox is not what it was")
        there = set(self._folder.mails)
        for number in range(len(self._view), 0, -1):
            if self._view[number - 1] not in there:
                del self._view[number - 1]
                self._say(f"* {number} EXPUNGE")
        if len(self._folder.mails) > len(self._view):
            self._view = list(self._folder.mails)
            self._say(f"* {len(self._view)} EXISTS")

    def _folders(self) -> dict[str, Folder]:
        if self._account is None:
            raise Refusal("BAD log in first")
        return self._account.folders

    def _named(self, token: Token) -> tuple[str, Folder]:
        name = text(token)
        name = "INBOX" if name.upper() == "INBOX" else name
        folder = self._folders().get(name)
        if folder is None:
            raise Refusal("NO [TRYCREATE] there is no such mailbox")
        return name, folder

    def _selected(self, *, writing: bool = False) -> Folder:
        if self._folder is None:
            raise Refusal("BAD select a mailbox first")
        if writing and self._readonly:
            raise Refusal("NO the mailbox is open for reading only")
        return self._folder

    def _leave(self) -> None:
        if self._folder is not None:
            self._folder.watchers.discard(self._news)
        self._folder, self._view = None, []

    # Any state, and logging in (RFC 3501 sections 6.1 and 6.2)

    async def do_capability(self) -> str:
        self._say(f"* CAPABILITY {CAPABILITIES}")
        return "OK done"

    async def do_noop(self) -> str:
        return "OK done"

    do_check = do_noop

    async def do_logout(self) -> str:
        self._leave()
        self._say("* BYE until next time")
        return "OK done"

    async def do_login(self, user: Token, password: Token) -> str:
        return self._log_in(text(user), text(password))

    async def do_authenticate(self, mechanism: Token, initial: Token = b"") -> str:
        if text(mechanism).upper() != "PLAIN":
            return "NO PLAIN is the only mechanism here"
        if not initial:
            self._say("+ ")
            initial = (await self._line()).strip()
        _, user, password = base64.b64decode(text(initial), validate=True).decode().split("\0")
        return self._log_in(user, password)

    def _log_in(self, user: str, password: str) -> str:
        account = self._accounts.get(user.lower())
        if account is None or account.password != password:
            return "NO [AUTHENTICATIONFAILED] wrong name or password"
        self._account = account
        return "OK welcome"

    # Mailboxes (RFC 3501 section 6.3)

    async def do_namespace(self) -> str:
        self._folders()
        self._say('* NAMESPACE (("" "/")) NIL NIL')
        return "OK done"

    async def do_list(self, reference: Token, pattern: Token) -> str:
        return self._list("LIST", text(reference), text(pattern))

    async def do_lsub(self, reference: Token, pattern: Token) -> str:
        return self._list("LSUB", text(reference), text(pattern))

    def _list(self, word: str, reference: str, pattern: str) -> str:
        if not pattern:
            self._say(f'* {word} (\\Noselect) "/" ""')
            return "OK done"
        wanted = re.escape(reference + pattern).replace(r"\*", ".*").replace("%", "[^/]*")
        for name, folder in self._folders().items():
            if re.fullmatch(wanted, name, re.IGNORECASE if name == "INBOX" else 0):
                self._say(f'* {word} ({folder.special_use}) "/" {quoted(name)}')
        return "OK done"

    async def do_subscribe(self, mailbox: Token) -> str:
        self._named(mailbox)
        return "OK everything is subscribed"

    async def do_create(self, mailbox: Token) -> str:
        name = text(mailbox).removesuffix("/")
        if not name or name.upper() == "INBOX" or name in self._folders():
            return "NO [ALREADYEXISTS] it cannot be created"
        self._folders()[name] = Folder()
        return "OK done"

    async def do_delete(self, mailbox: Token) -> str:
        name, folder = self._named(mailbox)
        if name == "INBOX":
            return "NO the INBOX stays"
        del self._folders()[name]
        folder.renumber()  # whoever has it open is told to go
        return "OK done"

    async def do_status(self, mailbox: Token, wanted: Token) -> str:
        name, folder = self._named(mailbox)
        values = {
            "MESSAGES": len(folder.mails),
            "RECENT": 0,
            "UIDNEXT": folder.uidnext,
            "UIDVALIDITY": folder.uidvalidity,
            "UNSEEN": sum("\\Seen" not in mail.flags for mail in folder.mails),
        }
        items = [item.upper() for item in listed(wanted)]
        if not values.keys() >= set(items):
            return "BAD one of these items is not known here"
        self._say(f"* STATUS {quoted(name)} ({' '.join(f'{item} {values[item]}' for item in items)})")
        return "OK done"

    async def do_append(self, mailbox: Token, *rest: Token) -> str:
        _, folder = self._named(mailbox)
        *options, data = rest
        if isinstance(data, list):
            return "BAD the message is missing"
        flags = [flag(name) for option in options if isinstance(option, list) for name in listed(option)]
        dates = [text(option).strip() for option in options if not isinstance(option, list)]
        at = datetime.strptime(dates[0], "%d-%b-%Y %H:%M:%S %z") if dates else None
        return f"OK [APPENDUID {folder.uidvalidity} {folder.add(data, flags, at).uid}] done"

    async def do_select(self, mailbox: Token, *, readonly: bool = False) -> str:
        self._leave()
        _, folder = self._named(mailbox)
        self._folder, self._readonly, self._uidvalidity = folder, readonly, folder.uidvalidity
        self._view = list(folder.mails)
        folder.watchers.add(self._news)
        keywords = {name for mail in folder.mails for name in mail.flags if not name.startswith("\\")}
        self._say(f"* FLAGS ({' '.join([SYSTEM_FLAGS, *sorted(keywords)])})")
        self._say(f"* {len(self._view)} EXISTS")
        self._say("* 0 RECENT")
        self._say(f"* OK [PERMANENTFLAGS ({'' if readonly else KEPT_FLAGS})] are kept")
        self._say(f"* OK [UIDVALIDITY {folder.uidvalidity}] UIDs are valid")
        self._say(f"* OK [UIDNEXT {folder.uidnext}] comes next")
        return f"OK [{'READ-ONLY' if readonly else 'READ-WRITE'}] done"

    async def do_examine(self, mailbox: Token) -> str:
        return await self.do_select(mailbox, readonly=True)

    async def do_unselect(self) -> str:
        self._selected()
        self._leave()
        return "OK done"

    async def do_close(self) -> str:
        folder = self._selected()
        if not self._readonly:
            folder.remove(mail for mail in self._view if "\\Deleted" in mail.flags)
        self._leave()
        return "OK done"

    async def do_idle(self) -> str:
        self._selected()
        self._say("+ idling")
        if self._faults.bye_in_idle:
            self._bye("the server goes down")
        done = asyncio.ensure_future(self._line())
        try:
            while not done.done():
                self._news.clear()
                self._tell_changes()
                await self._writer.drain()
                news = asyncio.ensure_future(self._news.wait())
                await asyncio.wait({done, news}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
            return "OK done" if (await done).strip().upper() == b"DONE" else "BAD DONE was expected"
        finally:
            done.cancel()

    # Messages (RFC 3501 section 6.4)

    async def do_search(self, *keys: Token) -> str:
        self._selected()
        found = search(self._view, list(keys[2:] if text(keys[0]).upper() == "CHARSET" else keys))
        numbers = (mail.uid if self._by_uid else n for n, mail in enumerate(self._view, 1) if mail in found)
        self._say(" ".join(["* SEARCH", *map(str, numbers)]))
        return "OK done"

    async def do_fetch(self, which: Token, wanted: Token) -> str:
        self._selected()
        items = [item.upper() for item in listed(wanted)]
        if self._by_uid and "UID" not in items:
            items.append("UID")
        for number, mail in self._chosen(which):
            told = items
            if not self._readonly and "\\Seen" not in mail.flags and any(map(reads, items)):
                mail.flags.add("\\Seen")
                told = [*items, "FLAGS"] if "FLAGS" not in items else items
            self._say(b"* %d FETCH (%b)" % (number, b" ".join(show(mail, item) for item in told)))
            await self._writer.drain()
        return "OK done"

    async def do_store(self, which: Token, how: Token, *flags: Token) -> str:
        self._selected(writing=True)
        given = {flag(name) for token in flags for name in listed(token)}
        match = re.fullmatch(r"([+-]?)FLAGS(\.SILENT)?", text(how).upper())
        if not match:
            return "BAD only flags are stored"
        items = ["UID", "FLAGS"] if self._by_uid else ["FLAGS"]
        for number, mail in self._chosen(which):
            mail.flags = {"+": mail.flags | given, "-": mail.flags - given, "": given}[match[1]]
            if not match[2]:
                self._say(b"* %d FETCH (%b)" % (number, b" ".join(show(mail, item) for item in items)))
        return "OK done"

    async def do_copy(self, which: Token, mailbox: Token) -> str:
        code, _ = self._copy(which, mailbox)
        return f"OK {code}done"

    async def do_move(self, which: Token, mailbox: Token) -> str:
        folder = self._selected(writing=True)
        code, mails = self._copy(which, mailbox)
        self._say(f"* OK {code}moved")  # untagged for MOVE (RFC 6851 section 4.3)
        folder.remove(mails)
        return "OK done"

    def _copy(self, which: Token, mailbox: Token) -> tuple[str, list[Mail]]:
        self._selected()
        _, folder = self._named(mailbox)
        old = [mail for _, mail in self._chosen(which)]
        new = [folder.add(mail.data, mail.flags, mail.at) for mail in old]
        sources, copies = (",".join(str(mail.uid) for mail in mails) for mails in (old, new))
        return (f"[COPYUID {folder.uidvalidity} {sources} {copies}] " if old else ""), old

    async def do_expunge(self, *which: Token) -> str:
        folder = self._selected(writing=True)
        chosen = [mail for _, mail in self._chosen(which[0])] if self._by_uid else self._view
        folder.remove(mail for mail in chosen if "\\Deleted" in mail.flags)
        return "OK done"

    def _chosen(self, which: Token) -> list[tuple[int, Mail]]:
        return choose(self._view, text(which), by_uid=self._by_uid)

"""How mails are put together byte by byte, where the standard library would mend what is meant to be wrong."""

import base64
import io
import zipfile

AGENT = "agent@demo.test"
CSV = b"region;revenue\r\nNorth;1,5\r\nSouth;2,5\r\nNorth;3\r\n"


def mail(who: str, *fields: str | bytes, body: bytes = b"Revenue by region, please.\r\n", sender: str = "") -> bytes:
    """A mail with these fields; without a Message-ID it gets one."""
    lines = [field if isinstance(field, bytes) else field.encode() for field in fields]
    if not any(line.lower().startswith(b"message-id") for line in lines):
        lines.append(f"Message-ID: <{who}>".encode())
    head = [f"From: {sender or who}".encode(), f"To: {AGENT}".encode(), b"MIME-Version: 1.0", *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def part(kind: str, body: bytes, *fields: str | bytes) -> bytes:
    lines = [field if isinstance(field, bytes) else field.encode() for field in fields]
    return b"\r\n".join([f"Content-Type: {kind}".encode(), *lines, b"", body])


def joined(parts: list[bytes], kind: str = "mixed", boundary: str = "next") -> tuple[str, bytes]:
    """The Content-Type field of a multipart, and its body."""
    lines = b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), one) for one in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"', lines + f"--{boundary}--\r\n".encode()


def file(name: str | bytes, data: bytes = CSV, kind: str = "text/csv", field: str = "filename=") -> bytes:
    """An attachment; `name` with its quotes."""
    name = name if isinstance(name, bytes) else name.encode()
    disposition = b"Content-Disposition: attachment; " + field.encode() + name
    return part(kind, base64.encodebytes(data), disposition, "Content-Transfer-Encoding: base64")


def words(text: str | bytes = "Revenue by region, please.", kind: str = "text/plain; charset=utf-8") -> bytes:
    return part(kind, text if isinstance(text, bytes) else text.encode())


def with_files(who: str, *parts: bytes, fields: tuple[str | bytes, ...] = (), sender: str = "") -> bytes:
    """A mail of these parts."""
    kind, body = joined(list(parts))
    return mail(who, *fields, kind, body=body, sender=sender)


def nested(levels: int, kind: str = "multipart/mixed") -> bytes:
    """Parts in parts, as body with its Content-Type on top."""
    if kind == "message/rfc822":
        return b"Content-Type: message/rfc822\r\n\r\n" * levels + part("text/plain", b"deep")
    opened = "".join(f'Content-Type: {kind}; boundary="b{n}"\r\n\r\n--b{n}\r\n' for n in range(levels))
    return opened.encode() + part("text/plain", b"deep")


def zipped(entries: dict[str, bytes], copies: int = 1) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            with archive.open(name, "w", force_zip64=True) as entry:
                for _ in range(copies):
                    entry.write(data)
    return out.getvalue()


def workbook(sheet: bytes, copies: int = 1) -> bytes:
    """An XLSX file with one sheet, `sheet` being repeated inside."""
    ns = "http://schemas.openxmlformats.org"
    office, package = f"{ns}/officeDocument/2006/relationships", f"{ns}/package/2006/relationships"
    relation = f'<Relationships xmlns="{package}"><Relationship Id="r" Type="{office}/%s" Target="%s"/></Relationships>'
    main = f'xmlns="{ns}/spreadsheetml/2006/main"'
    parts = {
        "_rels/.rels": relation % ("officeDocument", "xl/workbook.xml"),
        "xl/_rels/workbook.xml.rels": relation % ("worksheet", "worksheets/sheet1.xml"),
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{office}"><sheets>'
        '<sheet name="s" sheetId="1" r:id="r"/></sheets></workbook>',
    }
    out = io.BytesIO(zipped({name: text.encode() for name, text in parts.items()}))
    inside = "xl/worksheets/sheet1.xml"
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(inside, "w") as entry:
        entry.write(f"<worksheet {main}><sheetData>".encode())
        for _ in range(copies):
            entry.write(sheet)
        entry.write(b"</sheetData></worksheet>")
    return out.getvalue()

"""winmail.dat: opened where tnefparse is there, kept as it is where it is not or cannot read it."""

import base64
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailagent.core.parse import parse
from mailagent.core.values import Attachment
from tests.unit.mails import HEADER, raw

CSV = b"region,revenue\r\nnorth,1\r\n"


def element(level: int, name: int, kind: int, data: bytes) -> bytes:
    """One attribute (MS-OXTNEF section 2.1.3.2 and 3)."""
    return struct.pack("<BHHI", level, name, kind, len(data)) + data + struct.pack("<H", sum(data) & 0xFFFF)


def winmail(*files: tuple[bytes, bytes]) -> bytes:
    out = struct.pack("<IH", 0x223E9F78, 1) + element(1, 0x9006, 8, struct.pack("<I", 0x10000))
    out += element(1, 0x9007, 6, struct.pack("<II", 1252, 0))
    for name, data in files:
        out += element(2, 0x9002, 6, bytes(14)) + element(2, 0x8010, 1, name + b"\0") + element(2, 0x800F, 6, data)
    return out


def mail(data: bytes, kind: str = "application/ms-tnef") -> bytes:
    return raw(
        HEADER + "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nsee attached\n"
        f"--b\nContent-Type: {kind}; name=winmail.dat\nContent-Transfer-Encoding: base64\n\n"
        f"{base64.encodebytes(data).decode()}\n--b--\n"
    )


TWO = winmail((b"sales.csv", CSV), (b"..\\Ums\xe4tze.csv", CSV))


@pytest.mark.parametrize("kind", ["application/ms-tnef", "application/octet-stream"])
def test_the_files_inside_come_out_under_safe_names(kind: str) -> None:
    pytest.importorskip("tnefparse", reason="the extra tnef is not installed")
    found = parse(mail(TWO, kind))
    assert found.text == "see attached"
    assert found.attachments == (
        Attachment("sales.csv", "application/octet-stream", CSV),
        Attachment("Umsätze.csv", "application/octet-stream", CSV),
    )


def test_one_that_only_says_how_the_text_looks_is_no_file() -> None:
    pytest.importorskip("tnefparse", reason="the extra tnef is not installed")
    assert parse(mail(winmail())).attachments == ()


def test_without_the_package_it_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tnefparse", None)
    assert parse(mail(TWO)).attachments == (Attachment("winmail.dat", "application/ms-tnef", TWO),)


@pytest.mark.parametrize("data", [b"", b"not TNEF", TWO[:7] + b"\xff" * 40], ids=["empty", "other", "broken"])
def test_what_cannot_be_opened_stays_as_it_is(data: bytes) -> None:
    assert parse(mail(data)).attachments == (Attachment("winmail.dat", "application/ms-tnef", data),)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, len(TWO) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(TWO)))
def test_a_mutated_file_is_opened_or_kept(edits: list[tuple[int, int]], end: int) -> None:
    data = bytearray(TWO)
    for at, value in edits:
        data[at] = value
    assert parse(mail(bytes(data[:end]))).text == "see attached"

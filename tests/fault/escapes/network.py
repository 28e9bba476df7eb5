"""Attempts to reach a network, or a socket that is not its own."""

import os
import socket
import struct
from fcntl import ioctl
from typing import Any

from tests.fault.escapes.attempt import Refused, Targets, attempt

SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, NLM_F_DUMP, NETLINK_SOCK_DIAG = 20, 1, 0x300, 4
UDIAG_SHOW_NAME = 1
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
NO_ANSWER = "no name server answers: ECONNREFUSED"


def _connected(family: int, address: Any) -> str:
    with socket.socket(family) as peer:
        peer.settimeout(3)
        peer.connect(address)
        return f"connected to {address!r}"


@attempt("ECONNREFUSED")
def ipv4(at: Targets) -> object:
    """Connects to a port of the host on its IPv4 loopback."""
    return _connected(socket.AF_INET, ("127.0.0.1", at["tcp4"]))


@attempt("EAFNOSUPPORT")
def ipv6(at: Targets) -> object:
    """Opens an IPv6 socket, for a port of the host."""
    with socket.socket(socket.AF_INET6) as peer:
        return f"opened; connected with {peer.connect_ex(('::1', at['tcp4']))}"


@attempt("ENETUNREACH", "-needs a route to elsewhere, which not every machine has")
def elsewhere(at: Targets) -> object:
    """Sends a datagram to another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        return peer.sendto(b"data", ("192.0.2.1", 9))


@attempt("ECONNREFUSED")
def dns(at: Targets) -> object:
    """Asks the host's name server, with the data in the name that it asks for."""
    query = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\x04data\x04test\x00" + struct.pack("!2H", 16, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(3)
        peer.connect(("127.0.0.1", at["dns"]))
        peer.send(query)
        return f"answered with {len(peer.recv(512))} bytes"


@attempt("name not found", "-needs a name server")
def dns_by_the_library(at: Targets) -> object:
    """Looks up a name as any program would."""
    try:
        return socket.getaddrinfo("data.example.org", 443)
    except socket.gaierror as error:
        if error.errno not in (socket.EAI_NONAME, socket.EAI_AGAIN):
            raise
        raise Refused("name not found") from error


@attempt("ECONNREFUSED")
def abstract_socket(at: Targets) -> object:
    """Connects to an abstract unix socket of the host, which no mount hides."""
    return _connected(socket.AF_UNIX, f"\0{at['abstract']}")


@attempt("ENOENT")
def socket_of_another_session(at: Targets) -> object:
    """Connects to the model socket of another session by its host path."""
    return _connected(socket.AF_UNIX, at["other_model"])


@attempt("its own socket alone: model.sock")
def sockets_of_services(at: Targets) -> object:
    """Looks for the sockets of services in /run: D-Bus, Docker, systemd."""
    found = sorted(os.listdir("/run"))
    if found == ["model.sock"]:
        raise Refused("its own socket alone: model.sock")
    return found


@attempt("EROFS|EBUSY|EPERM")
def model_socket_replaced(at: Targets) -> object:
    """Puts a socket of its own in the place of the model's, to listen to what is asked."""
    os.rename(at["model"], f"{at['model']}.old")
    os.rename(f"{at['model']}.old", at["model"])
    return "moved"


@attempt("the host's sockets are not among them")
def sockets_by_netlink(at: Targets) -> object:
    """Asks the kernel for the names of all unix sockets."""
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, UDIAG_SHOW_NAME, 0, 0)
    header = struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(3)
        kernel.send(header + request)
        seen = b""
        while struct.unpack_from("=IH", part := kernel.recv(1 << 16))[1] == SOCK_DIAG_BY_FAMILY:
            seen += part
    if at["abstract"].encode() in seen:
        return "the host's sockets"
    raise Refused("the host's sockets are not among them")


@attempt("nothing but lo", "-a machine may have nothing else")
def interfaces(at: Targets) -> object:
    """Lists the interfaces of the host."""
    found = [name for _, name in socket.if_nameindex()]
    if found == ["lo"]:
        raise Refused("nothing but lo")
    return found


@attempt("EPERM", "capable")
def interface_changed(at: Targets) -> object:
    """Changes an interface of its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        return ioctl(peer, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


@attempt("EPERM", "capable")
def raw_socket(at: Targets) -> object:
    """Opens a raw IP socket."""
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


@attempt("EAFNOSUPPORT", "capable")
def packet_socket(at: Targets) -> object:
    """Opens a socket on the wire itself."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)


@attempt("EAFNOSUPPORT", "unfiltered")
def vsock(at: Targets) -> object:
    """Opens a socket to the machine that this one runs on, which no network namespace holds."""
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)


@attempt("EAFNOSUPPORT", "-not every kernel has them")
def kernel_crypto(at: Targets) -> object:
    """Opens a socket to the kernel's ciphers, where holes were found before."""
    return socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)

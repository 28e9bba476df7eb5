"""Attempts to read what belongs to the daemon, to other threads, to the host."""

import ctypes
import os
import socket
from pathlib import Path

from tests.fault.escapes.attempt import LIBC, Refused, Targets, attempt, checked, syscall

PROCESS_1 = "-outside, process 1 is root's"
OPEN_BY_HANDLE_AT = {"x86_64": 304, "aarch64": 265}


@attempt("no process here has it")
def key_in_any_environment(at: Targets) -> object:
    """Looks for the API key in the environment of every process in /proc."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if at["secret"].encode() in path.read_bytes():
                return path
        except OSError:
            continue
    raise Refused("no process here has it")


@attempt("ENOENT")
def environment_of_the_daemon(at: Targets) -> object:
    """Opens /proc/PID/environ of the daemon."""
    return Path(f"/proc/{at['pid']}/environ").read_bytes().count(at["secret"].encode())


@attempt("ENOENT")
def memory_of_the_daemon(at: Targets) -> object:
    """Reads the key out of /proc/PID/mem of the daemon."""
    with open(f"/proc/{at['pid']}/mem", "rb", buffering=0) as memory:
        memory.seek(at["address"])
        return memory.read(8)


@attempt("ENOENT")
def directory_of_the_daemon(at: Targets) -> object:
    """Lists the daemon's working directory by /proc/PID/cwd."""
    return os.listdir(f"/proc/{at['pid']}/cwd")


@attempt("ENOENT", PROCESS_1)
def host_by_the_root_of_process_1(at: Targets) -> object:
    """Opens a host file below /proc/1/root."""
    return Path(f"/proc/1/root{at['settings']}").read_text()[:20]


@attempt("nothing but its own pipes")
def descriptors_left_open(at: Targets) -> object:
    """Looks for a descriptor that was left open by the daemon: a file, a directory."""
    found = {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)}
    found |= {os.readlink(f"/proc/{os.getppid()}/fd/{name}") for name in os.listdir(f"/proc/{os.getppid()}/fd")}
    odd = [path for path in found if path.startswith("/") and not path.startswith(("/dev/", "/proc/"))]
    if odd:
        return odd
    raise Refused("nothing but its own pipes")


def _is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


@attempt("ENOENT")
def settings_of_the_daemon(at: Targets) -> object:
    """Reads the daemon's settings file."""
    return Path(at["settings"]).read_text()[:20]


@attempt("ENOENT")
def redis_socket(at: Targets) -> object:
    """Connects to the daemon's Redis and asks for its keys."""
    with socket.socket(socket.AF_UNIX) as redis:
        redis.connect(at["redis"])
        redis.sendall(b"KEYS *\r\n")
        return redis.recv(20)


@attempt("ENOENT")
def files_of_another_thread(at: Targets) -> object:
    """Reads the workspace of another thread by its host path."""
    return Path(at["neighbour"]).read_text()


@attempt("ENOENT")
def files_of_another_thread_by_dots(at: Targets) -> object:
    """Climbs from its own workspace to the one beside it."""
    return Path(f"{at['workspace']}/work/../../../neighbour/files/in/data.csv").read_text()


@attempt("ENOENT")
def files_of_another_thread_by_a_link(at: Targets) -> object:
    """Makes a symbolic link to another thread's file and reads through it."""
    link = Path(at["workspace"], "work", "a link")
    link.symlink_to(at["neighbour"])
    try:
        return link.read_text()
    finally:
        link.unlink()


@attempt("ENOENT")
def files_of_another_thread_by_a_hard_link(at: Targets) -> object:
    """Gives another thread's file a second name in its own workspace."""
    name = f"{at['workspace']}/work/hard"
    os.link(at["neighbour"], name)
    os.unlink(name)
    return "linked"


@attempt("EXDEV")
def original_by_a_hard_link(at: Targets) -> object:
    """Gives an original in in/ a second, writable name in work/."""
    name = f"{at['workspace']}/work/hard"
    os.link(f"{at['workspace']}/in/data.csv", name)
    os.unlink(name)
    return "linked"


@attempt("ENOENT")
def host_beyond_the_root(at: Targets) -> object:
    """Climbs out of / by an open directory and a long chain of dots."""
    root = os.open("/", os.O_RDONLY)
    return os.read(os.open("../" * 50 + str(at["settings"]).lstrip("/"), os.O_RDONLY, dir_fd=root), 20)


@attempt("ENOENT")
def host_by_its_names(at: Targets) -> object:
    """Reads /etc/hostname, which every host has and a sandbox does not need."""
    return Path("/etc/hostname").read_text()


@attempt("no directory of the host's: agent")
def homes_of_the_host(at: Targets) -> object:
    """Lists /home and looks whether anything but its own is there, or /root."""
    found = sorted([*os.listdir("/home"), *(["root"] if os.path.isdir("/root") else [])])
    if found == ["agent"]:
        raise Refused("no directory of the host's: agent")
    return found


@attempt("ENOENT")
def devices_in_sys(at: Targets) -> object:
    """Lists the host's devices in /sys."""
    return len(os.listdir("/sys/class"))


@attempt("ENOENT")
def state_in_var(at: Targets) -> object:
    """Lists the host's state in /var."""
    return os.listdir("/var/lib")


@attempt("ENOENT")
def shared_memory_of_the_host(at: Targets) -> object:
    """Reads a segment of POSIX shared memory that a process outside holds."""
    return Path(f"/dev/shm/{at['shm']}").read_text()


@attempt("EINVAL")
def system_v_memory_of_the_host(at: Targets) -> object:
    """Attaches a System V segment by the number that it has outside."""
    LIBC.shmat.restype = ctypes.c_long
    return ctypes.string_at(checked(LIBC.shmat(at["sysv"], None, 0o10000)), 8)


@attempt("ENOENT", "-root's own")
def kernel_messages(at: Targets) -> object:
    """Opens /dev/kmsg."""
    return os.open("/dev/kmsg", os.O_RDONLY)


@attempt("EACCES|ENOENT", "-root's own")
def kernel_memory(at: Targets) -> object:
    """Opens /proc/kcore."""
    return os.open("/proc/kcore", os.O_RDONLY)


@attempt("EPERM", "-takes rights on the host that the daemon has not either")
def host_by_a_forged_handle(at: Targets) -> object:
    """Opens inode 2, the root of the file system that the workspace lies on, by a file handle made up."""
    handle = (ctypes.c_uint32 * 4)(8, 1, 2, 0)  # bytes, type, inode, generation
    mount = os.open(at["workspace"], os.O_RDONLY)
    return syscall(OPEN_BY_HANDLE_AT, mount, handle, os.O_RDONLY)

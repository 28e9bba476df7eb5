"""Attempts at namespaces, and at what the kernel offers to everybody and few need: only the filter refuses most."""

import ctypes
import mmap
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from fcntl import ioctl

from tests.fault.escapes.attempt import LIBC, Attempt, Refused, Targets, add, attempt, checked, syscall

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
SIGCHLD = 17
NEWNET_IN_A_NEW_USER = NEWUSER | NEWNET
RIGHTS = "-takes rights on the host that the daemon has not either"


@attempt("EPERM")
def unshare(at: Targets) -> object:
    """Makes a user namespace, in which it would have every capability."""
    return checked(LIBC.unshare(NEWUSER))


@attempt("EPERM")
def unshare_by_the_program(at: Targets) -> object:
    """Makes a user and mount namespace by unshare(1)."""
    return _said(["unshare", "--user", "--map-root-user", "--mount", "true"], {"Operation not permitted": "EPERM"})


@attempt("EPERM")
def clone(at: Targets) -> object:
    """Starts a process in a new user namespace by clone(2)."""
    child = syscall({"x86_64": 56, "aarch64": 220}, NEWUSER | SIGCHLD, 0, 0, 0, 0)
    return _parent(child)


@attempt("ENOSYS")
def clone3(at: Targets) -> object:
    """Starts a process in a new user namespace by clone3(2), whose flags a filter cannot read."""
    arguments = (ctypes.c_uint64 * 8)(NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0)
    return _parent(syscall(435, arguments, ctypes.sizeof(arguments)))


@attempt("EPERM", "capable")
def unshare_mounts(at: Targets) -> object:
    """Makes a mount namespace."""
    return checked(LIBC.unshare(NEWNS))


@attempt("EPERM", "capable")
def setns(at: Targets) -> object:
    """Enters the mount namespace of process 1."""
    return checked(LIBC.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0))


@attempt("EPERM|ENOENT", RIGHTS)
def parent_of_its_user_namespace(at: Targets) -> object:
    """Asks for a handle on the user namespace above its own."""
    return ioctl(os.open("/proc/self/ns/user", os.O_RDONLY), 0xB702)


@attempt("EPERM")
def sandbox_in_the_sandbox(at: Targets) -> object:
    """Starts bubblewrap inside."""
    words = {"No space left on device": "ENOSPC", "not permitted": "EPERM", "No permissions to create": "EPERM"}
    return _said([at["bwrap"], "--unshare-user", "--ro-bind", "/", "/", "true"], words)


def _said(command: list[str], errors: Mapping[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return "it ran"
    raise Refused(next((name for words, name in errors.items() if words in done.stderr), done.stderr))


def _parent(child: int) -> int:
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def _child() -> int:
    """A process that does nothing until it is ended."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child


@attempt("EPERM", "unfiltered")
def ptrace_of_its_own(at: Targets) -> object:
    """Traces a child, as it could trace the CLI."""
    child = _child()
    try:
        return checked(LIBC.ptrace(16, child, None, None))
    finally:
        os.kill(child, 9)


@attempt("EPERM", "unfiltered")
def memory_of_its_own(at: Targets) -> object:
    """Reads the memory of a child by process_vm_readv(2), as it could read the CLI's."""
    text = ctypes.create_string_buffer(b"in the child")
    child = _child()
    copy = ctypes.create_string_buffer(12)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(copy), 12)
    remote = (ctypes.c_size_t * 2)(ctypes.addressof(text), 12)
    try:
        checked(LIBC.process_vm_readv(child, local, ctypes.c_ulong(1), remote, ctypes.c_ulong(1), ctypes.c_ulong(0)))
        return copy.value
    finally:
        os.kill(child, 9)


@attempt("killed by SIGSYS", "unfiltered")
def bpf_by_32_bits(at: Targets) -> object:
    """Calls bpf(2) by the kernel's 32-bit entry, where every call has another number."""
    if platform.machine() != "x86_64":
        raise Refused("killed by SIGSYS")
    code = b"\x53\xb8" + (357).to_bytes(4, "little") + b"\xbb\xff\xff\xff\x7f\x31\xc9\x31\xd2\xcd\x80\x5b\xc3"
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    page = mmap.mmap(-1, 4096, private, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return _unless_refused(call())


@attempt("EPERM", "unfiltered")
def memory_shared_without_a_file(at: Targets) -> object:
    """Takes memory that stays when no process has it in its tables, where the watch looks."""
    return len(mmap.mmap(-1, 4096))


@attempt("ENODEV")
def memory_shared_by_a_device(at: Targets) -> object:
    """Takes the same from /dev/zero."""
    with open("/dev/zero", "r+b", buffering=0) as zero:
        return len(mmap.mmap(zero.fileno(), 4096))


def _unless_refused(result: int) -> str:
    """The kernel looked at the arguments, and they were nonsense: it was reached."""
    if -result in (1, 38):
        raise OSError(-result, "")
    return f"the kernel read its arguments: {result}"


def _reached(number: int | Mapping[str, int], *arguments: object) -> object:
    try:
        return syscall(number, *arguments)
    except OSError as error:
        return _unless_refused(-(error.errno or 0))


def _by_number(
    name: str,
    tries: str,
    number: int | Mapping[str, int],
    *arguments: object,
    without: str = "unfiltered",
    refused: str = "EPERM",
) -> None:
    add(Attempt(name, tries, refused, without, lambda _: _reached(number, *arguments)))


def _pages() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(4096)


_by_number("bpf", "Loads a program into the kernel.", {"x86_64": 321, "aarch64": 280}, 0x7FFFFFFF, 0, 0)
_by_number(
    "userfaultfd", "Handles page faults of its own, to win races in the kernel.", {"x86_64": 323, "aarch64": 282}, 1
)
_by_number("io_uring", "Has the kernel do its work in a queue, past the filter.", 425, 1, _pages(), refused="ENOSYS")
_by_number(
    "keyring", "Adds a key to a keyring of the host's.", {"x86_64": 248, "aarch64": 217}, b"user", b"a", b"b", 1, -2
)
_by_number("keys_by_keyctl", "Asks for its session keyring.", {"x86_64": 250, "aarch64": 219}, 0, -3, 1)
_by_number("perf_events", "Measures what the machine does.", {"x86_64": 298, "aarch64": 241}, _pages(), 0, -1, -1, 0)
_by_number(
    "file_handle",
    "Asks for the file handle of a host file.",
    {"x86_64": 303, "aarch64": 264},
    -100,
    b"/usr",
    _pages(),
    _pages(),
    0,
)
_by_number(
    "personality",
    "Changes its personality, and with it where its memory lies.",
    {"x86_64": 135, "aarch64": 92},
    0x0040000,
)
_by_number("open_tree", "Takes hold of a tree of mounts.", 428, -100, b"/", 0, refused="ENOSYS")
_by_number(
    "mount_by_fsopen", "Makes a file system by the newer calls.", 430, b"tmpfs", 0, refused="ENOSYS", without="capable"
)
_by_number("semaphores", "Fills the kernel's memory with semaphores.", {"x86_64": 64, "aarch64": 190}, 0, 9, 0o1600)
_by_number(
    "pages_in_a_pipe",
    "Leaves pages in pipes, large ones too, and gives back the memory that it had them in.",
    {"x86_64": 278, "aarch64": 75},
    -1,
    _pages(),
    1,
    0,
)
_by_number("memory_policy", "Moves its memory between the machine's nodes.", {"x86_64": 238, "aarch64": 237}, 0, 0, 0)
_by_number("kexec", "Loads another kernel.", {"x86_64": 246, "aarch64": 104}, 0, 17, 0, 0, without=RIGHTS)
_by_number("kernel_module", "Loads a kernel module.", {"x86_64": 313, "aarch64": 273}, -1, b"", 0, without=RIGHTS)
_by_number(
    "kernel_log",
    "Reads the kernel's log.",
    {"x86_64": 103, "aarch64": 116},
    3,
    _pages(),
    4096,
    without="-every host decides for itself",
)
_by_number(
    "accounting",
    "Has the kernel write a log of all processes.",
    {"x86_64": 163, "aarch64": 89},
    b"/tmp/log",
    without=RIGHTS,
)
_by_number(
    "quota",
    "Changes the quota of a disk.",
    {"x86_64": 179, "aarch64": 60},
    -1,
    b"/dev/vda",
    0,
    0,
    without="-every host decides for itself",
)
_by_number("pivot_root", "Swaps its root.", {"x86_64": 155, "aarch64": 41}, b"/tmp", b"/tmp", without="capable")
_by_number("host_name", "Renames the machine.", {"x86_64": 170, "aarch64": 161}, b"forged", 6, without="capable")
# reboot(2) with no magic numbers is refused with EINVAL only after the right to it was looked for.
_by_number("restart", "Restarts the machine.", {"x86_64": 169, "aarch64": 142}, 0, 0, 0, 0, without="-not safe")

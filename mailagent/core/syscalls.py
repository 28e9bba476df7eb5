"""Which system calls code in a sandbox may not make, as rules; adapters/seccomp.py compiles them for the kernel.

Flatpak's list, and what has since been a way out of containers. What is not named is allowed: the analysis libraries
use hundreds of calls, and a list of those would break with each new version of them."""

from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOSYS, EPERM
from typing import Literal, TypeAlias

Machine: TypeAlias = Literal["x86_64", "aarch64"]

AF_UNIX, AF_INET, AF_NETLINK = 1, 2, 16
CLONE_NEW_NAMESPACES = 0x7E020000
CLONE_THREAD, CLONE_FILES, CLOSE_RANGE_UNSHARE = 0x10000, 0x400, 0x2
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
SHARED_WITHOUT_A_FILE = 0x21
"""mmap(2)'s MAP_SHARED and MAP_ANONYMOUS. Such memory stays when nobody has it in its tables, where the watch looks."""

NEWEST = 462
"""mseal, of Linux 6.10: a call with a higher number is one that this list has not judged, and does not exist."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Answer this call with this error: always, or by an argument (its low 32 bits, which are all the kernel reads of
    each named here) when it has one of the bits, when those that the first value names are as in the second, when it is
    one of the values, or none of them."""

    call: str
    error: int
    when: Literal["always", "bits", "masked", "one of", "none of"] = "always"
    argument: int = 0
    values: tuple[int, ...] = ()


NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # Kernel log, accounting, quotas, keys, NUMA policy
    "syslog": (103, 116),
    "uselib": (134, None),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "request_key": (249, 218),
    "move_pages": (279, 239),
    "mbind": (237, 235),
    "get_mempolicy": (239, 236),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "migrate_pages": (256, 238),
    # Namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    # Other processes, and files by handle
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    # Parts of the kernel that were exploited again and again, and that data analysis does not need
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    # The machine itself
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "create_module": (174, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
    # Memory that is no process's own: nothing but a cgroup would see it
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "vmsplice": (278, 75),
    # Asynchronous IO is counted for the whole machine: one sandbox could take all that there is
    "io_setup": (206, 0),
    # Judged by their arguments
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "ioctl": (16, 29),
    "mmap": (9, 222),
    "socket": (41, 198),
    "socketpair": (53, 199),
}
"""The number of each call on x86_64 and on aarch64; None where it does not exist."""

ABSENT = (
    *("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "memfd_create", "memfd_secret"),
    *("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "statmount", "listmount"),
)
"""Answered as by an older kernel, so that programs take the way they have for that: glibc falls back to clone, whose
flags can be judged, since they are not behind a pointer."""

FAMILIES = (AF_UNIX, AF_INET, AF_NETLINK)
"""The model's socket; what libraries try on the loopback device of an empty network; how they list its interfaces. Any
other family (AF_VSOCK, AF_PACKET, AF_ALG) is either not bound to a network namespace or a part of the kernel less."""

BY_ARGUMENT = (
    Rule("clone", EPERM, "bits", 0, (CLONE_NEW_NAMESPACES,)),
    # A thread with open files of its own: proc(5) tells of those of a process.
    Rule("clone", EPERM, "masked", 0, (CLONE_THREAD | CLONE_FILES, CLONE_THREAD)),
    Rule("close_range", EPERM, "bits", 2, (CLOSE_RANGE_UNSHARE,)),
    Rule("ioctl", EPERM, "one of", 1, (TIOCSTI, TIOCLINUX)),
    Rule("mmap", EPERM, "masked", 3, (SHARED_WITHOUT_A_FILE, SHARED_WITHOUT_A_FILE)),
    Rule("socket", EAFNOSUPPORT, "none of", 0, FAMILIES),
    Rule("socketpair", EAFNOSUPPORT, "none of", 0, FAMILIES),
)

RULES = (
    *BY_ARGUMENT,
    *(Rule(call, ENOSYS) for call in ABSENT),
    *(Rule(call, EPERM) for call in NUMBERS if call not in {*ABSENT, *(rule.call for rule in BY_ARGUMENT)}),
)


def number(call: str, machine: Machine) -> int | None:
    """The call's number on this machine."""
    return NUMBERS[call][0 if machine == "x86_64" else 1]

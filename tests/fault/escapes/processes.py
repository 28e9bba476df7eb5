"""Attempts at processes that are not its own, and at the terminal."""

import ctypes
import os
import resource
import signal
from fcntl import ioctl

from tests.fault.escapes.attempt import LIBC, Targets, attempt, checked, syscall

PIDFD_GETFD = 438
PTRACE_SEIZE = 0x4206


@attempt("ESRCH")
def signal_to_the_daemon(at: Targets) -> object:
    """Sends the daemon a signal."""
    os.kill(at["pid"], signal.SIGCONT)
    return "sent"


@attempt("ESRCH")
def handle_on_the_daemon(at: Targets) -> object:
    """Takes a handle on the daemon by its number."""
    return os.pidfd_open(at["pid"])


@attempt("ESRCH|EPERM")
def descriptor_of_the_daemon(at: Targets) -> object:
    """Takes a copy of one of the daemon's open files."""
    return syscall(PIDFD_GETFD, os.pidfd_open(at["pid"]), 0, 0)


@attempt("ESRCH|EPERM")
def ptrace_of_the_daemon(at: Targets) -> object:
    """Traces the daemon."""
    return checked(LIBC.ptrace(PTRACE_SEIZE, at["pid"], None, None))


@attempt("ESRCH|EPERM")
def memory_of_the_daemon_by_number(at: Targets) -> object:
    """Reads the daemon's memory by process_vm_readv(2)."""
    copy = ctypes.create_string_buffer(8)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(copy), 8)
    remote = (ctypes.c_size_t * 2)(at["address"], 8)
    checked(LIBC.process_vm_readv(at["pid"], local, ctypes.c_ulong(1), remote, ctypes.c_ulong(1), ctypes.c_ulong(0)))
    return copy.raw


@attempt("ESRCH")
def limits_of_the_daemon(at: Targets) -> object:
    """Changes how many files the daemon may open."""
    return resource.prlimit(at["pid"], resource.RLIMIT_NOFILE)


@attempt("ESRCH")
def priority_of_the_daemon(at: Targets) -> object:
    """Makes the daemon the last in the queue for the processor."""
    os.setpriority(os.PRIO_PROCESS, at["pid"], 19)
    return "changed"


@attempt("EPERM", "unfiltered")
def ptrace_of_process_1(at: Targets) -> object:
    """Traces bubblewrap, to take back its promise to die with the daemon."""
    return checked(LIBC.ptrace(PTRACE_SEIZE, 1, None, None))


@attempt("ENXIO", "terminal")
def keys_typed_into_the_terminal(at: Targets) -> object:
    """Types a command into the terminal that the daemon was started from (TIOCSTI)."""
    return ioctl(os.open("/dev/tty", os.O_RDWR), 0x5412, b"x")

"""Attempts to write outside work/ and out/."""

import ctypes
import os
import stat
from pathlib import Path

from tests.fault.escapes.attempt import LIBC, Targets, attempt, checked

MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
ROOTS = "-root's own"


def touched(path: str) -> str:
    """Make a file, and take it away again."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)
    return f"made {path}"


def opened(path: str) -> str:
    """Open an existing file for writing."""
    os.close(os.open(path, os.O_WRONLY))
    return f"may write {path}"


@attempt("EROFS")
def original_made_writable(at: Targets) -> object:
    """Takes away the write protection of an original in in/."""
    Path(at["workspace"], "in", "data.csv").chmod(0o600)
    return opened(f"{at['workspace']}/in/data.csv")


@attempt("EROFS")
def original_removed(at: Targets) -> object:
    """Moves an original out of the way."""
    path = Path(at["workspace"], "in", "data.csv")
    path.rename(path.with_name("moved")).rename(path)
    return "moved"


@attempt("EROFS")
def file_among_the_originals(at: Targets) -> object:
    """Puts a file of its own among the originals."""
    return touched(f"{at['workspace']}/in/forged.csv")


@attempt("EROFS|EBUSY")
def originals_swapped_for_a_link(at: Targets) -> object:
    """Puts a link in the place of in/, which the daemon would write through."""
    here = Path(at["workspace"], "in")
    moved = here.rename(here.with_name("moved"))
    here.symlink_to("/tmp")
    here.unlink()
    return moved.rename(here)


@attempt("EROFS|EBUSY")
def answer_swapped_for_a_link(at: Targets) -> object:
    """Puts a link in the place of out/, which the daemon would collect from."""
    here = Path(at["workspace"], "out")
    moved = here.rename(here.with_name("moved"))
    here.symlink_to("/etc")
    here.unlink()
    return moved.rename(here)


@attempt("EROFS")
def top_of_the_workspace(at: Targets) -> object:
    """Plants a CLAUDE.md where the next turn starts."""
    return touched(f"{at['workspace']}/CLAUDE.md")


@attempt("EROFS")
def skill_changed(at: Targets) -> object:
    """Rewrites a skill that all threads use."""
    return opened(f"{at['skills']}/reply/SKILL.md")


@attempt("EROFS")
def skill_added(at: Targets) -> object:
    """Adds a skill."""
    return touched(f"{at['skills']}/SKILL.md")


@attempt("EROFS")
def module_in_the_analysis_environment(at: Targets) -> object:
    """Adds a module that every later script would import."""
    return touched(f"{at['analysis']}/lib/sitecustomize.py")


@attempt("EROFS")
def python_of_the_analysis_environment(at: Targets) -> object:
    """Puts another program in the place of Python."""
    python = Path(at["analysis"], "bin", "python")
    return python.rename(python.with_name("moved")).rename(python)


@attempt("EROFS")
def names_of_users(at: Targets) -> object:
    """Makes itself root in /etc/passwd."""
    return opened(f"{at['etc']}/passwd")


@attempt("EROFS")
def the_cli_itself(at: Targets) -> object:
    """Changes the program that every session starts."""
    return opened(at["cli"])


@attempt("EROFS", "writable")
def file_in_the_root(at: Targets) -> object:
    """Makes a file in /."""
    return touched("/forged")


@attempt("EROFS", "writable")
def file_in_dev(at: Targets) -> object:
    """Makes a file in /dev."""
    return touched("/dev/forged")


@attempt("EROFS", ROOTS)
def programs_of_the_host(at: Targets) -> object:
    """Makes a program in /usr/bin."""
    return touched("/usr/bin/forged")


@attempt("EACCES|EROFS", ROOTS)
def core_pattern(at: Targets) -> object:
    """Has the kernel start a program on the host at the next crash."""
    return opened("/proc/sys/kernel/core_pattern")


@attempt("EACCES|EROFS|ENOENT", ROOTS)
def sysrq(at: Targets) -> object:
    """Has the kernel restart the machine."""
    return opened("/proc/sysrq-trigger")


@attempt("ENOENT")
def settings_changed(at: Targets) -> object:
    """Writes the daemon's settings."""
    return opened(at["settings"])


@attempt("ENOENT")
def file_in_another_thread(at: Targets) -> object:
    """Puts a file into another thread's answer."""
    return touched(str(Path(at["neighbour"]).parent.parent / "out" / "forged.csv"))


@attempt("EPERM", "-takes rights on the host that the daemon has not either")
def device_of_the_disk(at: Targets) -> object:
    """Makes a device node of the first disk."""
    os.mknod(f"{at['workspace']}/work/disk", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    return "made"


@attempt("EPERM", "capable")
def originals_remounted(at: Targets) -> object:
    """Mounts in/ again, writable."""
    target = f"{at['workspace']}/in".encode()
    return checked(LIBC.mount(b"none", target, None, ctypes.c_ulong(MS_REMOUNT | MS_BIND), None))


@attempt("EPERM", "capable")
def originals_unmounted(at: Targets) -> object:
    """Takes the read-only mount off in/, under which it lies writable."""
    return checked(LIBC.umount2(f"{at['workspace']}/in".encode(), 2))


@attempt("EPERM", "capable")
def mount_of_its_own(at: Targets) -> object:
    """Mounts a file system without a limit."""
    return checked(LIBC.mount(b"none", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None))


@attempt("EPERM", "capable")
def root_of_its_own(at: Targets) -> object:
    """Changes its root, the first step out of a chroot."""
    os.chroot("/tmp")
    return "changed"


@attempt("EFBIG")
def file_of_a_terabyte(at: Targets) -> object:
    """Makes a file of a terabyte that takes no room, for whoever copies it."""
    path = f"{at['workspace']}/work/giant"
    try:
        with open(path, "w") as file:
            return file.truncate(1 << 40)
    finally:
        os.unlink(path)

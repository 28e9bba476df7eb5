"""Build a Debian with this checkout installed in it, boot it in an emulated machine, and say what came of it there."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.vm import AS_PROMISED, FAULTS

CHECKOUT = Path(__file__).parents[2]
CACHE = CHECKOUT / ".vm"
CONSOLE, REPORT, IMAGE = (CACHE / name for name in ("console", "report", "image"))
INSIDE = "/opt/checkout"
BOUND = 90 * 60.0
TAIL = 40
"""Lines of the console that are shown when the machine came to no end of its own."""

SYSTEM = ("systemd", "systemd-sysv", "dbus", "udev", "linux-image-cloud-amd64", "passwd")
OURS = ("bubblewrap", "redis-server", "runsc", "fonts-dejavu-core", "python3", "python3-pip", "make")
IDLE = ("redis-server.service", "apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer", "e2scrub_all.timer")
"""What Debian starts, and here only takes time."""
SHARED = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl", "/usr/share/ca-certificates", "/etc/pip.conf")
"""How this machine reaches its package registry, lent to what installs into the other one."""


def run(*command: str | Path, text: str | None = None) -> str:
    """What it prints; its errors are shown."""
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


def inside(root: Path, *command: str) -> None:
    """Run a program on that file system in place of ours, with our network."""
    lent = [word for path in (*SHARED, Path.home()) for word in ("--bind-try", str(path), str(path))]
    mounts = ("--bind", str(root), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", *lent)
    path = ("--setenv", "PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    run("bwrap", *mounts, *path, "--cap-add", "ALL", "--chdir", INSIDE, *command)


def system() -> Path:
    """A Debian as this machine's own, made once for each list of packages."""
    asked = sorted((*SYSTEM, *OURS))
    wanted = hashlib.sha256(" ".join(asked).encode()).hexdigest()[:16]
    root = CACHE / f"root-{wanted}"
    if not root.exists():
        print("making a Debian", flush=True)
        for old in CACHE.glob("root-*"):
            shutil.rmtree(old)
        run("apt-get", "update", "-qq")
        line = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
        sources = run("apt-get", "indextargets", "--format", line, "Created-By: Packages", "Origin: Debian")
        new = root.with_suffix(".new")
        options = ("--quiet", "--variant=apt", f"--include={','.join(asked)}", "--format=directory")
        run("mmdebstrap", *options, "", new, "-", text=sources)
        run("systemctl", f"--root={new}", "mask", "--quiet", *IDLE)
        (new / "etc" / "fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
        new.rename(root)
    return root


def install(root: Path) -> None:
    """Put this checkout there, and let it install itself as on any machine."""
    print("installing this checkout", flush=True)
    place = root / INSIDE.strip("/")
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        if old.name not in (".venv", ".analysis"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for name in files():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, place / name)
    run("chmod", "-R", "go+rX", place)
    inside(root, "make", "install")
    shutil.copy(CHECKOUT / "tests" / "vm" / "proof.service", root / "etc" / "systemd" / "system")
    run("systemctl", f"--root={root}", "enable", "--quiet", "proof.service")


def files() -> Iterator[str]:
    """What is in the checkout and not ignored."""
    listed = run("git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return (name for name in listed.split("\0") if name and (CHECKOUT / name).is_file())


def boot(root: Path, steps: Sequence[str]) -> subprocess.Popen[bytes]:
    """The machine: two processors, no network, the console on its first serial line, the table on the second. `steps`
    are words of the names of what to try; all is without one."""
    IMAGE.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-d", root, IMAGE, "16G")
    line = " ".join(["root=/dev/vda rw console=ttyS0 panic=-1", *(f"step={word}" for word in steps)])
    (kernel,), (first,) = ((root / "boot").glob(f"{name}-*") for name in ("vmlinuz", "initrd.img"))
    return subprocess.Popen(
        [
            "qemu-system-x86_64",
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "5G"),
            *("-nic", "none", "-display", "none", "-monitor", "none", "-no-reboot"),
            *("-kernel", kernel, "-initrd", first, "-append", line),
            *("-drive", f"file={IMAGE},format=raw,if=virtio,cache=unsafe"),
            *("-serial", f"file:{CONSOLE}", "-serial", f"file:{REPORT}"),
        ]
    )


def follow(machine: subprocess.Popen[bytes]) -> str:
    """All that it reports, shown as it comes, until it has stopped or has had its time."""
    end, shown = time.monotonic() + BOUND, 0
    while True:
        told = REPORT.read_text(errors="replace").replace("\r", "") if REPORT.exists() else ""
        print(told[shown:], end="", flush=True)
        shown = len(told)
        if machine.returncode is not None or time.monotonic() > end:
            return told
        try:
            machine.wait(1)
        except subprocess.TimeoutExpired:
            continue


def main() -> int:
    if os.geteuid() != 0:
        print("make vm makes a file system that root owns: run it as root", file=sys.stderr)
        return 1
    CACHE.mkdir(exist_ok=True)
    root = system()
    install(root)
    for old in (CONSOLE, REPORT):
        old.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    machine = boot(root, sys.argv[1:])
    try:
        told = follow(machine)
    finally:
        machine.kill()
        machine.wait()
        IMAGE.unlink(missing_ok=True)
    if told.rstrip().endswith(AS_PROMISED):
        return 0
    if FAULTS not in told:
        print("\nit came to no verdict; the end of its console:\n")
        print("\n".join(CONSOLE.read_text(errors="replace").splitlines()[-TAIL:]))
    return 1


if __name__ == "__main__":
    sys.exit(main())

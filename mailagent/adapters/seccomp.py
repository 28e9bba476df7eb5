"""The system call filter: core's rules as the program that the kernel runs at each call, seccomp(2), in classic BPF."""

import platform
import struct
from collections.abc import Iterator, Sequence

from mailagent.core.errors import ConfigError
from mailagent.core.syscalls import NEWEST, RULES, Machine, Rule, number

# linux/bpf_common.h, linux/seccomp.h, linux/audit.h
LOAD, AND, RETURN = 0x20, 0x54, 0x06
OVER, JUMP_EQUAL, JUMP_GREATER, JUMP_BITS = 0x05, 0x15, 0x25, 0x45
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
ARCHITECTURES: dict[Machine, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ENOSYS = 38


def program() -> bytes:
    """The filter for this machine. ConfigError for one whose calls we do not know."""
    for machine in ARCHITECTURES:
        if machine == platform.machine():
            return compiled(RULES, machine)
    raise ConfigError(f"the sandbox has no system call filter for {platform.machine()}: use x86_64 or aarch64")


def compiled(rules: Sequence[Rule], machine: Machine) -> bytes:
    """A struct sock_filter for each step. A program of another architecture (i386 on x86_64) is killed at its first
    call: the numbers mean other calls there. Those of x32 are higher than any that is known."""
    return b"".join(
        [
            _step(LOAD, ARCHITECTURE_AT),
            _step(JUMP_EQUAL, ARCHITECTURES[machine], 1, 0),
            _step(RETURN, KILL),
            _step(LOAD, NUMBER_AT),
            _step(JUMP_GREATER, NEWEST, 0, 1),
            _step(RETURN, ERROR | ENOSYS),
            *(part for rule in rules for part in _rule(rule, number(rule.call, machine))),
            _step(RETURN, ALLOW),
        ]
    )


def _rule(rule: Rule, call: int | None) -> Iterator[bytes]:
    if call is None:
        return
    steps = list(_judged(rule))
    yield _step(JUMP_EQUAL, call, 0, len(steps))
    yield from steps


def _judged(rule: Rule) -> Iterator[bytes]:
    """What follows when it is this call: a refusal, or the next rule, which there may be for the same call."""
    refuse = _step(RETURN, ERROR | rule.error)
    if rule.when == "always":
        yield refuse
        return
    values = rule.values
    yield _step(LOAD, ARGUMENTS_AT + 8 * rule.argument)
    if rule.when == "masked":
        yield _step(AND, values[0])
        values = values[1:]
    jump = JUMP_BITS if rule.when == "bits" else JUMP_EQUAL
    for at, value in enumerate(values):
        yield _step(jump, value, len(values) - at)  # over the values that are left and the step after them
    go_on = _step(LOAD, NUMBER_AT)
    yield from (refuse, go_on) if rule.when == "none of" else (_step(OVER, 1), refuse, go_on)


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)

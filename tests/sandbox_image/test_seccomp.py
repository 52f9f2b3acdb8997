"""The filters, run in an interpreter of classic BPF: no machine of either kind is needed to know what they say."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_image import seccomp
from sandbox_image.seccomp import ALLOW, EPERM, KILL_PROCESS, Check, Instruction, Rule, assemble, refuse
from sandbox_image.syscalls import AARCH64, X86_64, Architecture
from tests.sandbox_image.allowed_calls import PINNED, PINNED_BY_ARGUMENT

PID = 4242
BOTH = pytest.mark.parametrize("architecture", [X86_64, AARCH64], ids=lambda a: a.name)
WORDS = st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6)


def verdict(program: list[Instruction], number: int, arguments: list[int], audit_arch: int) -> int:
    """What Linux would do, by the definition of the machine."""
    data = struct.pack("<iIQ6Q", number - (number >> 31 << 32), audit_arch, 0, *arguments)
    at = accumulator = 0
    while True:
        instruction = program[at]
        at += 1
        match instruction.code:
            case seccomp.LOAD:
                (accumulator,) = struct.unpack_from("<I", data, instruction.value)
            case seccomp.AND:
                accumulator &= instruction.value
            case seccomp.JUMP_ALWAYS:
                at += instruction.value
            case seccomp.JUMP_EQUAL:
                at += instruction.if_true if accumulator == instruction.value else instruction.if_false
            case seccomp.JUMP_AT_LEAST:
                at += instruction.if_true if accumulator >= instruction.value else instruction.if_false
            case seccomp.RETURN:
                return instruction.value
            case _:
                raise AssertionError(f"unknown instruction {instruction}")


def ask(program: list[Instruction], architecture: Architecture, name: str, *arguments: int) -> int:
    padded = [argument % 2**64 for argument in arguments] + [0] * (6 - len(arguments))
    return verdict(program, architecture.numbers[name], padded, architecture.audit_arch)


def programs(architecture: Architecture) -> list[list[Instruction]]:
    return [seccomp.sandbox_filter(architecture), seccomp.kernel_filter(architecture, PID)]


@BOTH
@given(number=st.integers(0, 2**32 - 1), arguments=WORDS)
def test_every_call_gets_a_verdict(architecture: Architecture, number: int, arguments: list[int]) -> None:
    """Both programs end with a return for every number and every argument."""
    for program in programs(architecture):
        got = verdict(program, number, arguments, architecture.audit_arch)
        assert got in (ALLOW, KILL_PROCESS) or got & 0xFFFF0000 == refuse(0)


@BOTH
@given(audit_arch=st.integers(0, 2**32 - 1), number=st.integers(0, 500))
def test_a_foreign_architecture_is_killed(architecture: Architecture, audit_arch: int, number: int) -> None:
    """Calls of another architecture, whose numbers mean something else, never get past the first comparison."""
    if audit_arch != architecture.audit_arch:
        for program in programs(architecture):
            assert verdict(program, number, [0] * 6, audit_arch) == KILL_PROCESS


@given(st.integers(0, 600))
def test_x32_calls_are_killed(number: int) -> None:
    """The second set of numbers of x86_64 is closed."""
    for program in programs(X86_64):
        assert verdict(program, number | 0x40000000, [0] * 6, X86_64.audit_arch) == KILL_PROCESS


@BOTH
@given(number=st.integers(0, 600), arguments=WORDS)
def test_what_is_not_on_the_list_does_not_exist(architecture: Architecture, number: int, arguments: list[int]) -> None:
    """A number without a name in our tables is answered as an older Linux would."""
    if number not in architecture.numbers.values():
        got = verdict(seccomp.sandbox_filter(architecture), number, arguments, architecture.audit_arch)
        assert got == refuse(errno.ENOSYS)


@BOTH
def test_the_attacks_are_refused(architecture: Architecture) -> None:
    """Calls that only an attack makes fail with EPERM in the first filter already."""
    program = seccomp.sandbox_filter(architecture)
    for name in (
        "execve",
        "ptrace",
        "mount",
        "unshare",
        "setns",
        "bpf",
        "io_uring_setup",
        "keyctl",
        "pidfd_open",
        "bind",
    ):
        assert ask(program, architecture, name) == EPERM
    assert ask(program, architecture, "clone3") == refuse(errno.ENOSYS)


def test_the_list_is_pinned() -> None:
    """What may be asked of Linux without a look at the arguments, call by call, and which calls are looked at."""
    assert frozenset(seccomp.ALLOWED_CALLS) == PINNED
    checked = {name for rule in seccomp._SANDBOX_RULES if rule.checks for name in rule.names}
    assert checked == PINNED_BY_ARGUMENT
    assert not (PINNED | PINNED_BY_ARGUMENT) & {*seccomp.ATTACK_CALLS, *seccomp.ATTRIBUTE_CALLS}


@BOTH
@given(domain=st.integers(0, 2**64 - 1), kind=st.integers(0, 2**32 - 1))
def test_only_unix_sockets_exist(architecture: Architecture, domain: int, kind: int) -> None:
    """No address family but AF_UNIX (of which Linux too looks at the low 32 bits only)."""
    program = seccomp.sandbox_filter(architecture)
    expected = ALLOW if domain % 2**32 == 1 else EPERM
    assert ask(program, architecture, "socket", domain, kind) == expected


@BOTH
@given(flags=st.integers(0, 2**64 - 1))
def test_clone_makes_no_namespaces_and_in_the_kernel_only_threads(architecture: Architecture, flags: int) -> None:
    """Namespace flags are refused everywhere, and a kernel may start threads but no process."""
    namespaces = flags & 0x7E020000 != 0
    assert ask(seccomp.sandbox_filter(architecture), architecture, "clone", flags) == (EPERM if namespaces else ALLOW)
    thread = flags & 0x10000 != 0
    assert ask(seccomp.kernel_filter(architecture, PID), architecture, "clone", flags) == (ALLOW if thread else EPERM)


@BOTH
@given(target=st.integers(-(2**31), 2**31 - 1))
def test_a_kernel_signals_only_itself(architecture: Architecture, target: int) -> None:
    """Every pid but its own is refused, groups and everybody (-1) included."""
    program = seccomp.kernel_filter(architecture, PID)
    for name in ("kill", "tgkill", "tkill"):
        assert ask(program, architecture, name, target, 9) == (ALLOW if target == PID else EPERM)


@BOTH
def test_a_kernel_reaches_nobody(architecture: Architecture) -> None:
    """No socket, no connection, no datagram to an address, no filter of its own, no way to be dumpable again."""
    program = seccomp.kernel_filter(architecture, PID)
    for name in ("socket", "connect", "seccomp", "setsid", "sendmsg", "setsockopt"):
        assert ask(program, architecture, name, 1, 1) == EPERM
    assert ask(program, architecture, "socketpair", 1, 1 | 0o2000000) == ALLOW
    assert ask(program, architecture, "socketpair", 1, 2) == EPERM
    assert ask(program, architecture, "sendto", 3, 0, 0, 0, 0) == ALLOW
    assert ask(program, architecture, "sendto", 3, 0, 0, 0, 1 << 40) == EPERM
    assert ask(program, architecture, "prctl", 4, 1) == EPERM


@BOTH
def test_attributes_of_files_cannot_be_changed(architecture: Architecture) -> None:
    """Modes, owners, times and extended attributes, and the length of a file that is not open, by any variant."""
    program = seccomp.sandbox_filter(architecture)
    names = "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat truncate"
    names += " setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat"
    for name in set(names.split()) & set(architecture.numbers):
        assert ask(program, architecture, name) == EPERM
    assert {"fchmodat", "fchownat", "utimensat", "setxattr", "truncate"} <= set(architecture.numbers)


@BOTH
@given(command=st.integers(0, 2**32 - 1) | st.integers(0, 1100), argument=st.integers(0, 2**64 - 1))
def test_no_descriptor_makes_linux_send_a_signal(architecture: Architecture, command: int, argument: int) -> None:
    """Neither F_SETOWN, F_SETSIG, F_SETLEASE, F_NOTIFY nor O_ASYNC nor their ioctls; what descriptors need, works."""
    program = seccomp.sandbox_filter(architecture)
    harmless = command in (0, 1, 2, 3, 5, 6, 7, 1030, 1032) or (command == 4 and not argument & 0x2000)
    assert ask(program, architecture, "fcntl", 3, command, argument) == (ALLOW if harmless else EPERM)
    for request in (0x5452, 0x8901, 0x8902):  # FIOASYNC, FIOSETOWN, SIOCSPGRP
        assert ask(program, architecture, "ioctl", 3, request, argument) == refuse(errno.ENOTTY)


@BOTH
@given(flags=st.integers(0, 2**32 - 1), protection=st.integers(0, 7))
def test_a_kernel_maps_only_private_memory(architecture: Architecture, flags: int, protection: int) -> None:
    """Shared memory of any kind, and memory that grows like a stack, are not counted by the limit, so there is none."""
    program = seccomp.kernel_filter(architecture, PID)
    private = flags & 0xF == 2 and not flags & 0x100
    assert ask(program, architecture, "mmap", 0, 1 << 30, protection, flags) == (ALLOW if private else EPERM)


@BOTH
@given(
    names=st.lists(st.sampled_from(sorted(AARCH64.numbers)), unique=True, max_size=30),
    allowed=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5),
    mask=st.integers(0, 2**32 - 1),
    value=st.integers(0, 2**32 - 1),
    wide=st.booleans(),
    high=st.sampled_from([0, 0, 1, 2**31]),
    other=st.none() | st.integers(0, 3),
    second=st.integers(0, 3),
)
def test_a_program_says_what_its_rules_say(
    architecture: Architecture,
    names: list[str],
    allowed: list[int],
    mask: int,
    value: int,
    wide: bool,
    high: int,
    other: int | None,
    second: int,
) -> None:
    """Assembled rules decide exactly as the rules read: all of the checks, or all of the other ones."""
    half = len(names) // 2
    plain, checked = names[:half], names[half:]
    rules = (
        Rule(names=tuple(plain), action=ALLOW),
        Rule(
            names=tuple(checked),
            action=ALLOW,
            checks=(Check(argument=2, among=tuple(allowed), mask=mask, wide=wide), Check(argument=4, among=(0, 1))),
            or_checks=() if other is None else (Check(argument=3, among=(7,)), Check(argument=4, among=(other,))),
            otherwise=EPERM,
        ),
    )
    program = assemble(architecture, rules, refuse(errno.ENOSYS))
    for name, number in architecture.numbers.items():
        expected = refuse(errno.ENOSYS)
        if name in plain:
            expected = ALLOW
        elif name in checked:
            first = value & mask in allowed and not (wide and high) and second in (0, 1)
            expected = ALLOW if first or second == other else EPERM
        assert verdict(program, number, [0, 0, high << 32 | value, 7, second, 0], architecture.audit_arch) == expected


def test_a_program_above_linux_own_limit_is_refused() -> None:
    """4096 instructions are the most."""
    check = Check(argument=0, among=tuple(range(200)))
    with pytest.raises(ValueError, match="4096"):
        assemble(X86_64, [Rule(names=tuple(X86_64.numbers), action=ALLOW, checks=(check,), otherwise=EPERM)], EPERM)


@BOTH
def test_a_supervisor_makes_threads_and_nothing_that_escapes_its_limits(architecture: Architecture) -> None:
    """On top of the sandbox's filter it loses processes, shared memory and the way back to being dumpable."""
    program = seccomp.supervisor_filter(architecture)

    def of(name: str, *arguments: int) -> int:
        words = [*arguments, 0, 0, 0, 0, 0, 0][:6]
        return verdict(program, architecture.numbers[name], words, architecture.audit_arch)

    assert of("clone", 0x3D0F00) == ALLOW
    assert of("clone", 17) == EPERM
    assert of("mmap", 0, 4096, 3, 0x22) == ALLOW
    assert of("mmap", 0, 4096, 3, 0x21) == EPERM
    assert of("prctl", 4, 1) == EPERM
    assert of("seccomp") == EPERM
    assert of("connect") == of("sendmsg") == of("socket", 1) == ALLOW

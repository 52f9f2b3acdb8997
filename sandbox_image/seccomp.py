"""Which system calls code in a sandbox may make: two filters, and a small assembler for classic BPF.

The first filter is on the supervisor before it forks, so everything inherits it: an *allow-list* of what CPython needs,
with AF_UNIX sockets as the only ones. What is not on it answers ENOSYS, as on an older Linux, so that the C library
falls back; calls that only an attack would make answer EPERM. The second one, on the kernel alone, *takes away*: no
new process, no connection, no signal to another process, no way back to being dumpable. A foreign architecture's
calls (32-bit, x32) kill the process, because their numbers mean something else.

A program is a list of instructions that looks at one `struct seccomp_data`: the number at byte 0, the architecture
at 4, and six 64-bit arguments from 16 on, of which the low word comes first (both machines are little-endian).
"""

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from . import native
from .syscalls import Architecture, this_architecture

LOAD = 0x20
JUMP_ALWAYS = 0x05
JUMP_EQUAL = 0x15
JUMP_AT_LEAST = 0x35
AND = 0x54
RETURN = 0x06

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_NUMBER_AT = 0
_ARCHITECTURE_AT = 4
_ARGUMENTS_AT = 16
_X32_BIT = 0x40000000
_MAX_INSTRUCTIONS = 4096
_SET_MODE_FILTER = 1

AF_UNIX = 1
SOCK_STREAM = 1
SOCK_SEQPACKET = 5
_SOCK_TYPE_MASK = 0xF
_CLONE_NAMESPACES = 0x7E020000
_CLONE_THREAD = 0x00010000
_MAP_PRIVATE = 0x02
_MAP_TYPE = 0x0F
_MAP_GROWSDOWN = 0x0100
_F_SETFL = 4
_O_ASYNC = 0x2000


@dataclass(frozen=True, slots=True)
class Instruction:
    """`if_true` and `if_false` count instructions to skip."""

    code: int
    if_true: int
    if_false: int
    value: int

    def encode(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.if_true, self.if_false, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A condition on the low 32 bits of one argument: `argument & mask` is one of `among`.

    `wide` also wants the high 32 bits to be zero: for pointers and where a truncated number would be another number.
    """

    argument: int
    among: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """For these calls: `action` where every check holds, or every one of the other checks; else `otherwise`."""

    names: tuple[str, ...]
    action: int
    checks: tuple[Check, ...] = ()
    or_checks: tuple[Check, ...] = ()
    otherwise: int = 0


def refuse(code: int) -> int:
    """The action that makes a call fail with this errno."""
    return _ERRNO | code


EPERM = refuse(errno.EPERM)
ENOSYS = refuse(errno.ENOSYS)


def assemble(architecture: Architecture, rules: Sequence[Rule], default: int) -> list[Instruction]:
    """The program of a rule list. The first rule that names a call decides; names the machine lacks are skipped."""
    program = [
        Instruction(LOAD, 0, 0, _ARCHITECTURE_AT),
        Instruction(JUMP_EQUAL, 1, 0, architecture.audit_arch),
        Instruction(RETURN, 0, 0, KILL_PROCESS),
        Instruction(LOAD, 0, 0, _NUMBER_AT),
        Instruction(JUMP_AT_LEAST, 0, 1, _X32_BIT),
        Instruction(RETURN, 0, 0, KILL_PROCESS),
    ]
    decided: set[int] = set()
    for rule in rules:
        numbers = {architecture.numbers[name] for name in rule.names if name in architecture.numbers} - decided
        decided |= numbers
        if rule.checks:
            for number in sorted(numbers):
                program += _checked(number, rule)
        else:
            program += _ranges(numbers, rule.action)
    program.append(Instruction(RETURN, 0, 0, default))
    if len(program) > _MAX_INSTRUCTIONS:
        raise ValueError(f"a filter may have {_MAX_INSTRUCTIONS} instructions, this one has {len(program)}")
    return program


def _ranges(numbers: set[int], action: int) -> list[Instruction]:
    """Neighbouring numbers share one pair of comparisons."""
    program: list[Instruction] = []
    for number in sorted(numbers):
        if number - 1 in numbers:
            continue
        last = number
        while last + 1 in numbers:
            last += 1
        program += [
            Instruction(JUMP_AT_LEAST, 0, 2, number),
            Instruction(JUMP_AT_LEAST, 1, 0, last + 1),
            Instruction(RETURN, 0, 0, action),
        ]
    return program


def _checked(number: int, rule: Rule) -> list[Instruction]:
    """The accumulator is loaded with arguments only inside this block, and the block always returns."""
    body = _case(rule.checks, rule.action)
    if rule.or_checks:
        body += _case(rule.or_checks, rule.action)
    body.append(Instruction(RETURN, 0, 0, rule.otherwise))
    return [Instruction(JUMP_EQUAL, 0, len(body), number), *body]


def _case(checks: Sequence[Check], action: int) -> list[Instruction]:
    """Returns where all hold; runs out of its end where one fails."""
    block = [Instruction(RETURN, 0, 0, action)]
    for check in reversed(checks):
        block = _check(check, len(block)) + block
    return block


def _check(check: Check, to_the_end: int) -> list[Instruction]:
    """Where it fails, skips all that comes behind it: so many instructions."""
    at = _ARGUMENTS_AT + 8 * check.argument
    block = [Instruction(LOAD, 0, 0, at)]
    if check.mask != 0xFFFFFFFF:
        block.append(Instruction(AND, 0, 0, check.mask))
    for index, value in enumerate(check.among):
        block.append(Instruction(JUMP_EQUAL, len(check.among) - index, 0, value & 0xFFFFFFFF))
    block.append(Instruction(JUMP_ALWAYS, 0, 0, to_the_end))
    if check.wide:
        high_word = [Instruction(LOAD, 0, 0, at + 4), Instruction(JUMP_EQUAL, 1, 0, 0)]
        block = [*high_word, Instruction(JUMP_ALWAYS, 0, 0, len(block) + to_the_end), *block]
    return block


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ALLOWED_CALLS = _words(
    """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 open openat close close_range creat
    lseek stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents getdents64
    getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat link linkat symlink
    symlinkat umask ftruncate fallocate fsync fdatasync flock fadvise64 readahead statfs fstatfs sendfile splice
    tee copy_file_range dup dup2 dup3 pipe pipe2 poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl
    epoll_wait epoll_pwait eventfd eventfd2 mmap mprotect munmap mremap msync mincore madvise brk futex
    set_robust_list get_robust_list set_tid_address rseq membarrier sched_yield sched_getaffinity sched_getparam
    sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval getpriority getcpu
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause alarm
    getitimer setitimer restart_syscall kill tkill tgkill clock_gettime clock_getres clock_nanosleep nanosleep
    gettimeofday time times getpid gettid getppid getpgrp getpgid getsid setsid getuid geteuid getgid getegid
    getgroups getresuid getresgid getrlimit setrlimit getrusage sysinfo uname getrandom wait4 waitid exit
    exit_group fork vfork arch_prctl seccomp sendto recvfrom sendmsg recvmsg shutdown getsockname getpeername
    setsockopt getsockopt connect
    """
)

ATTACK_CALLS = _words(
    """
    execve execveat ptrace process_vm_readv process_vm_writev process_madvise pidfd_open pidfd_getfd
    pidfd_send_signal kcmp unshare setns mount umount2 pivot_root chroot fsopen fsmount move_mount open_tree
    mount_setattr io_uring_setup io_uring_enter io_uring_register io_setup keyctl add_key request_key bpf
    perf_event_open userfaultfd memfd_create memfd_secret open_by_handle_at name_to_handle_at sched_setaffinity
    sched_setscheduler sched_setparam sched_setattr setpriority init_module finit_module delete_module
    kexec_load kexec_file_load reboot swapon acct quotactl syslog personality mknod mknodat rt_sigqueueinfo
    rt_tgsigqueueinfo setuid setresuid setgroups capset inotify_init1 fanotify_init mq_open shmget msgget semget
    sethostname setdomainname settimeofday clock_settime vhangup timer_create bind listen accept accept4
    landlock_create_ruleset landlock_add_rule landlock_restrict_self
    """
)

ATTRIBUTE_CALLS = _words(
    """
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat truncate setxattr
    lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat file_setattr
    """
)
"""They change a file that was not opened for writing, and Landlock governs none of them but truncate: a file of the
host, or a context's blob through its hard link, belongs to the sandbox's uid where that is the service's own."""

_TERMINAL_AND_PIPE_REQUESTS = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TCGETS2 and TIOCGWINSZ (what `isatty` asks), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 5, 6, 7, 1030, 1032)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_SETLK, F_SETLKW, F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Not those that make
Linux send a signal, of any number to anybody (F_SETOWN, F_SETSIG, F_SETLEASE, F_NOTIFY), nor F_SETPIPE_SZ, whose
buffers no limit counts."""
_SUPERVISOR_PRCTL = (1, 3, 4, 15, 16)
"""PDEATHSIG, GET_DUMPABLE, SET_DUMPABLE, SET_NAME, GET_NAME."""
_KERNEL_PRCTL = (3, 15, 16)

_SANDBOX_RULES = (
    Rule(
        names=("clone",), action=ALLOW, checks=(Check(argument=0, among=(0,), mask=_CLONE_NAMESPACES),), otherwise=EPERM
    ),
    # clone3 hides its flags behind a pointer; without it the C library uses clone.
    Rule(names=("clone3",), action=ENOSYS),
    Rule(
        names=("socket", "socketpair"),
        action=ALLOW,
        checks=(Check(argument=0, among=(AF_UNIX,)),),
        otherwise=EPERM,
    ),
    Rule(names=("prctl",), action=ALLOW, checks=(Check(argument=0, among=_SUPERVISOR_PRCTL),), otherwise=EPERM),
    Rule(
        names=("ioctl",),
        action=ALLOW,
        checks=(Check(argument=1, among=_TERMINAL_AND_PIPE_REQUESTS),),
        otherwise=refuse(errno.ENOTTY),
    ),
    Rule(
        names=("fcntl",),
        action=ALLOW,
        checks=(Check(argument=1, among=_DESCRIPTOR_COMMANDS),),
        or_checks=(Check(argument=1, among=(_F_SETFL,)), Check(argument=2, among=(0,), mask=_O_ASYNC)),
        otherwise=EPERM,
    ),
    Rule(names=("prlimit64",), action=ALLOW, checks=(Check(argument=0, among=(0,)),), otherwise=EPERM),
    Rule(names=ALLOWED_CALLS, action=ALLOW),
    Rule(names=ATTACK_CALLS + ATTRIBUTE_CALLS, action=EPERM),
)


def sandbox_filter(architecture: Architecture) -> list[Instruction]:
    """For the supervisor and all that it forks."""
    return assemble(architecture, _SANDBOX_RULES, ENOSYS)


def kernel_filter(architecture: Architecture, pid: int) -> list[Instruction]:
    """For a kernel of this pid, on top of the other one: it only takes away.

    No process beside itself: what a cell forks would outlive the cell, hold the kernel's sockets and count its time
    elsewhere. Threads are fine. Datagram socket pairs go too, since `sendto` on one of them reaches any path.

    Memory is private and does not grow by itself: the limit on a process's data counts neither what is shared (with
    nobody, as MAP_ANONYMOUS or of /dev/zero) nor what is a stack. Messages with descriptors and larger socket buffers
    would be memory too.
    """
    myself = Check(argument=0, among=(pid,))
    stream_pairs = Check(argument=1, among=(SOCK_STREAM, SOCK_SEQPACKET), mask=_SOCK_TYPE_MASK)
    threads = Check(argument=0, among=(_CLONE_THREAD,), mask=_CLONE_THREAD)
    private = Check(argument=3, among=(_MAP_PRIVATE,), mask=_MAP_TYPE | _MAP_GROWSDOWN)
    rules = (
        Rule(names=("clone",), action=ALLOW, checks=(threads,), otherwise=EPERM),
        Rule(names=("kill", "tgkill", "tkill"), action=ALLOW, checks=(myself,), otherwise=EPERM),
        Rule(names=("socketpair",), action=ALLOW, checks=(stream_pairs,), otherwise=EPERM),
        Rule(names=("prctl",), action=ALLOW, checks=(Check(argument=0, among=_KERNEL_PRCTL),), otherwise=EPERM),
        Rule(names=("sendto",), action=ALLOW, checks=(Check(argument=4, among=(0,), wide=True),), otherwise=EPERM),
        Rule(names=("mmap",), action=ALLOW, checks=(private,), otherwise=EPERM),
        Rule(names=("fork", "vfork", "setsid", "seccomp", "socket", "connect", "sendmsg", "setsockopt"), action=EPERM),
    )
    return assemble(architecture, rules, ALLOW)


def supervisor_filter(architecture: Architecture) -> list[Instruction]:
    """For the supervisor once its zygote is forked, on top of the sandbox's: it only takes away.

    Should somebody get hold of it, the limit on the data of each process bounds memory only while there are no more
    processes and no memory that is shared.
    """
    threads = Check(argument=0, among=(_CLONE_THREAD,), mask=_CLONE_THREAD)
    private = Check(argument=3, among=(_MAP_PRIVATE,), mask=_MAP_TYPE | _MAP_GROWSDOWN)
    rules = (
        Rule(names=("clone",), action=ALLOW, checks=(threads,), otherwise=EPERM),
        Rule(names=("prctl",), action=ALLOW, checks=(Check(argument=0, among=_KERNEL_PRCTL),), otherwise=EPERM),
        Rule(names=("mmap",), action=ALLOW, checks=(private,), otherwise=EPERM),
        Rule(names=("fork", "vfork", "setsid", "seccomp"), action=EPERM),
    )
    return assemble(architecture, rules, ALLOW)


def install(program: Sequence[Instruction]) -> None:
    """Put a filter on this thread, for good. Needs no-new-privs.

    Raises:
        OSError: this kernel does not take it.
    """
    code = b"".join(instruction.encode() for instruction in program)
    instructions = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: u16 length, padding, pointer
    descriptor = struct.pack("=H6xQ", len(program), ctypes.addressof(instructions))
    pointer = ctypes.create_string_buffer(descriptor, len(descriptor))
    native.system_call(this_architecture().numbers["seccomp"], _SET_MODE_FILTER, 0, pointer)


def confine_sandbox() -> None:
    install(sandbox_filter(this_architecture()))


def confine_supervisor() -> None:
    install(supervisor_filter(this_architecture()))


def confine_kernel() -> None:
    install(kernel_filter(this_architecture(), os.getpid()))

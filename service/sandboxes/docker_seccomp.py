"""Which system calls a container may make at all, as the profile that Docker takes.

This is the outer of two lists. It holds from before the first instruction of Python; what the supervisor then puts on
itself and on the kernel (`sandbox_image.seccomp`) is narrower still. It allows what CPython and the common packages
need, and what the container runtime and that inner list need to get there (execve, seccomp, prctl). Docker's own
default profile lets through more: io_uring, AF_VSOCK, netlink, pidfd_open, user namespaces.

Everything else answers EPERM; clone3 answers ENOSYS, because its flags cannot be looked at and the C library then
falls back to clone.
"""

import json
from collections.abc import Mapping
from functools import cache

_FILES = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 open openat creat close close_range lseek
    _llseek stat fstat lstat stat64 fstat64 lstat64 newfstatat fstatat64 statx access faccessat faccessat2 readlink
    readlinkat getdents getdents64 getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat
    link linkat symlink symlinkat chmod fchmod fchmodat fchmodat2 umask truncate ftruncate fallocate fsync fdatasync
    flock fcntl fcntl64 fadvise64 readahead utime utimes utimensat statfs fstatfs statfs64 fstatfs64 sendfile splice
    tee copy_file_range dup dup2 dup3 pipe pipe2
"""
_WAITING = """
    poll ppoll select _newselect pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
    eventfd eventfd2 nanosleep clock_nanosleep pause alarm getitimer setitimer
"""
_MEMORY = "brk mmap mprotect munmap mremap madvise mincore msync membarrier"
_THREADS_AND_SIGNALS = """
    futex futex_waitv set_robust_list get_robust_list set_tid_address rseq sched_yield sched_getaffinity
    sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval getpriority
    getcpu rt_sigaction rt_sigprocmask rt_sigreturn sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
    restart_syscall kill tkill tgkill
"""
_ONESELF = """
    getpid gettid getppid getpgrp getpgid getsid setsid getuid geteuid getgid getegid getgroups getresuid getresgid
    getrlimit ugetrlimit setrlimit prlimit64 getrusage sysinfo uname getrandom clock_gettime clock_getres gettimeofday
    time times wait4 waitid waitpid exit exit_group fork vfork arch_prctl
"""
_UNIX_SOCKETS = """
    connect sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown getsockname getpeername setsockopt getsockopt
"""
_STARTING = "execve prctl seccomp ioctl capget capset setuid setgid setgroups setresuid setresgid"
"""What the container runtime does between loading this profile and starting Python, and Python's own confinement.
No capability is left, so the identity calls change nothing."""

_CLONE_NAMESPACES = 0x7E020000
"""CLONE_NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWNS."""
_AF_UNIX = 1
_ENOSYS = 38


@cache
def seccomp_profile() -> str:
    """The profile as JSON, as `--security-opt seccomp=` takes it."""
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [
                {"names": allowed_calls(), "action": "SCMP_ACT_ALLOW"},
                _checked(["socket", "socketpair"], {"index": 0, "value": _AF_UNIX, "op": "SCMP_CMP_EQ"}),
                _checked(
                    ["clone"], {"index": 0, "value": _CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
                ),
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
            ],
        }
    )


def allowed_calls() -> list[str]:
    """Those that are allowed whatever their arguments are."""
    groups = (_FILES, _WAITING, _MEMORY, _THREADS_AND_SIGNALS, _ONESELF, _UNIX_SOCKETS, _STARTING)
    return sorted({name for group in groups for name in group.split()})


def _checked(names: list[str], argument: Mapping[str, int | str]) -> dict[str, object]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": [dict(argument)]}

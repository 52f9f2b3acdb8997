"""A Python like macOS's, made of ours: without the names that CPython has on Linux only.

What runs in it cannot lean on Linux without being found out. It is no macOS: the calls that remain are Linux's.
"""

WITHOUT_LINUX = """
import os, resource, select, signal, socket, sys
LACKING = {
    os: "eventfd eventfd_read eventfd_write EFD_CLOEXEC EFD_NONBLOCK O_PATH O_TMPFILE pidfd_open setresuid setresgid "
        "getresuid getresgid pipe2 memfd_create sched_getaffinity sched_setaffinity posix_fadvise posix_fallocate "
        "getrandom copy_file_range splice unshare setns",
    select: "epoll POLLRDHUP",
    signal: "sigtimedwait sigwaitinfo SIGRTMIN SIGRTMAX pidfd_send_signal",
    socket: "SO_PEERCRED SOCK_SEQPACKET SOCK_CLOEXEC SOCK_NONBLOCK MSG_NOSIGNAL MSG_CMSG_CLOEXEC",
    resource: "prlimit",
}
for module, names in LACKING.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""
"""The beginning of a program; what it runs comes after."""

"""What a sandbox may ask of Linux, written down a second time: a change of the filter is a change of the security
profile, and is made here too, on purpose."""

_PLAIN = """
    access alarm arch_prctl brk chdir clock_getres clock_gettime clock_nanosleep close close_range connect
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd eventfd2
    exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fdatasync flock fork fstat fstatfs fsync
    ftruncate futex get_robust_list getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid
    getsockname getsockopt gettid gettimeofday getuid kill link linkat lseek lstat madvise membarrier mincore mkdir
    mkdirat mmap mprotect mremap msync munmap nanosleep newfstatat open openat pause pipe pipe2 poll ppoll pread64
    preadv preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmsg
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn
    rt_sigsuspend rt_sigtimedwait sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getparam
    sched_getscheduler sched_rr_get_interval sched_yield seccomp select sendfile sendmsg sendto set_robust_list
    set_tid_address setitimer setrlimit setsid setsockopt shutdown sigaltstack splice stat statfs statx symlink
    symlinkat sysinfo tee tgkill time times tkill umask uname unlink unlinkat vfork wait4 waitid write writev
"""
PINNED = frozenset(_PLAIN.split())
"""Without a look at their arguments."""
PINNED_BY_ARGUMENT = frozenset({"clone", "socket", "socketpair", "prctl", "ioctl", "fcntl", "prlimit64"})
"""Only with some of them."""

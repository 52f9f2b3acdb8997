"""Linux itself, call by call. The arguments are such that a call that is let through does next to nothing."""

from sandbox_image import seccomp
from sandbox_image.syscalls import Architecture, this_architecture
from tests.escape.case import REFUSED, Case, words
from tests.sandbox_image.allowed_calls import PINNED, PINNED_BY_ARGUMENT

HERE: Architecture = this_architecture()
_HIGHEST = 480
_ALLOWED = PINNED | PINNED_BY_ARGUMENT
"""Not the filter's own word on it: one call more there is seen here."""
_PAST_EVERY_FILTER = frozenset({335, 336}) if HERE.name == "x86_64" else frozenset()
"""uretprobe and uprobe: Linux lets them past all filters, and ends a process that was not brought there by a probe."""
_HAS_OWN_CASES = {"fork", "vfork", "kill", "socket", "connect"}
_KERNEL_REFUSES = "fork vfork setsid seccomp socket connect sendmsg setsockopt"


def _refused(name: str) -> Case:
    code = f"say(call({HERE.numbers[name]}, -1, 0, 0, 0, 0, 0))"
    return Case(name=f"system call {name}", code=code, held=REFUSED)


_ATTACKS = [name for name in (*seccomp.ATTACK_CALLS, *seccomp.ATTRIBUTE_CALLS) if name in HERE.numbers]
_ALLOWED_NUMBERS = sorted({HERE.numbers[name] for name in _ALLOWED if name in HERE.numbers} | _PAST_EVERY_FILTER)

_CLONES = {
    "a user namespace": 0x10000000,
    "a mount namespace": 0x00020000,
    "a pid namespace": 0x20000000,
    "a network namespace": 0x40000000,
    "a cgroup namespace": 0x02000000,
    "a process": 17,
    "a process that shares memory": 0x4000 | 0x100 | 17,
    "the parent's sibling": 0x8000 | 17,
    "a process with a pidfd": 0x1000 | 17,
}

CASES = (
    *(_refused(name) for name in _ATTACKS),
    *(_refused(name) for name in _KERNEL_REFUSES.split() if name in HERE.numbers and name not in _HAS_OWN_CASES),
    *(
        Case(name=f"clone {what}", code=f"say(call({HERE.numbers['clone']}, {flags}, 0, 0, 0, 0))", held=REFUSED)
        for what, flags in _CLONES.items()
    ),
    Case(
        name="clone3, whose flags hide behind a pointer",
        code=f"say(call({HERE.numbers['clone3']}, _c.create_string_buffer(88), 88))",
        held=words("ENOSYS"),
    ),
    Case(
        name="every system call that is on no list",
        code=f"allowed = {_ALLOWED_NUMBERS}\n"
        f"say(*sorted({{call(n, -1, 0, 0, 0, 0, 0) for n in range({_HIGHEST}) if n not in allowed}}))",
        held=REFUSED,
    ),
    Case(
        name="system calls of the 32-bit table",
        code=r"""
import mmap
block = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
block.write(b'\xb8\x14\x00\x00\x00\xcd\x80\xc3')
at = _c.addressof(_c.c_char.from_buffer(block))
say('answered' if _c.CFUNCTYPE(_c.c_int)(at)() > 0 else 'ENOSYS')
""",
        # gVisor has no 32-bit table: it answers as if the call were not there, or ends the process.
        held=words("killed", "ENOSYS"),
    ),
    Case(
        name="system calls of the x32 table",
        code=f"say(call(0x40000000 + {HERE.numbers['getpid']}))",
        held=words("killed", "ENOSYS"),
    ),
    Case(
        name="a system call number with high bits",
        code=f"say(call((1 << 32) + {HERE.numbers['ptrace']}, 0, 0, 0, 0))",
        held=REFUSED,
    ),
    Case(
        name="prctl: be dumpable, traceable, secure in another way",
        code=f"say(*[call({HERE.numbers['prctl']}, option, 1, 0, 0, 0) for option in (4, 8, 22, 24, 26, 28, 35, 36, 38, 47, 50, 52, 0x59616d61)])",
        held=REFUSED,
    ),
    Case(
        name="ioctl: type into a terminal, mount, clone a file, ask for signals",
        code=f"say(*[call({HERE.numbers['ioctl']}, 0, request, 0) for request in (0x5412, 0x541C, 0x8901, 0x8902, 0x40049409, 0x4C00, 0xC0045877, 0x5452)])",
        held=words("ENOTTY"),
    ),
    Case(
        name="ioctl with high bits in the request",
        code=f"say(call({HERE.numbers['ioctl']}, 0, (1 << 32) + 0x5412, 0))",
        held=words("ENOTTY", "EPERM"),
    ),
    Case(
        name="fcntl: signals, leases, larger pipes, notes, seals",
        code="read, write = os.pipe()\n"
        f"say(*[call({HERE.numbers['fcntl']}, write, command, value) for command, value in ((8, 1), (10, 9), (1024, 0), (1026, 1), (1031, 1 << 20), (1033, 1), (15, 0), (36, 0), (4, 0x2000))])",
        held=REFUSED,
    ),
    Case(
        name="mmap: shared, growing, huge, fixed at nothing",
        code=f"say(*[call({HERE.numbers['mmap']}, 0, 4096, 3, flags, -1, 0) for flags in (0x21, 0x23, 0x122, 0x20021)])",
        held=REFUSED | {"EOPNOTSUPP", "EINVAL"},
    ),
    Case(
        name="map the first page",
        code=f"say(call({HERE.numbers['mmap']}, 0, 4096, 3, 0x32, -1, 0))",
        # gVisor's guest has a first page of its own: no page of this machine.
        held=REFUSED | {"EINVAL"},
        but={"docker+runsc": REFUSED | {"EINVAL", "ENOMEM", "done"}},
    ),
    Case(
        name="add another filter, or take one away",
        code=f"say(*[call({HERE.numbers['seccomp']}, operation, 0, 0) for operation in (0, 1, 2, 3)])",
        held=REFUSED,
    ),
    Case(
        name="become root",
        code="""
for name in ('setuid', 'seteuid', 'setgid', 'setegid'): say(attempt(getattr(os, name), 0))
say(attempt(os.setresuid, 0, 0, 0), attempt(os.setresgid, 0, 0, 0), attempt(os.setgroups, [0]), attempt(os.initgroups, 'root', 0))
""",
        held=REFUSED,
    ),
    Case(
        name="hold a capability",
        code=r"""
status = dict(line.split(':\t') for line in open('/proc/self/status').read().splitlines() if ':\t' in line)
say('none' if not any(int(status.get(name, '0'), 16) for name in ('CapEff', 'CapPrm', 'CapInh', 'CapAmb')) else 'some')
say('none' if os.getuid() and os.geteuid() else 'root', 'none' if status.get('NoNewPrivs', '1') == '1' else 'more')
""",
        held=words("none"),
        but={"process-landlock": words("raised:PermissionError")},
    ),
    Case(
        name="exec from memory, from /tmp, from /dev/shm, from a descriptor",
        code=r"""
import shutil
for place in (tmp, '/dev/shm', '.'):
    path = place + '/program'
    try: open(path, 'wb').write(b'\x7fELF' + bytes(60))
    except OSError as error: say(_e.errorcode[error.errno]); continue
    say(attempt(os.execv, path, [path]), attempt(os.chmod, path, 0o777)); os.unlink(path)
say(attempt(os.memfd_create, 'x') if hasattr(os, 'memfd_create') else 'ENOSYS')
say(attempt(os.execve, os.open(os.__file__, os.O_RDONLY), ['x'], {}))
""",
        held=REFUSED | {"ENOENT"},
    ),
    Case(
        name="start a program by any name",
        code="""
import subprocess, multiprocessing, pty, concurrent.futures
say(attempt(subprocess.run, ['/bin/true']), attempt(os.posix_spawn, sys.executable or '/rlm/python', ['x'], {}), attempt(os.fork), attempt(os.forkpty), attempt(pty.fork))
say(attempt(lambda: multiprocessing.get_context('fork').Process(target=print).start()), attempt(lambda: multiprocessing.get_context('spawn').Process(target=print).start()))
say('EPERM' if os.system('true') else 'done', attempt(os.execl, '/rlm/python', 'python'))
""",
        held=REFUSED | {"ENOENT", "EINVAL", "OSError"},
    ),
    Case(
        name="load native code from /tmp",
        code="""
import mmap
open(tmp + '/native', 'wb').write(bytes(4096))
file = os.open(tmp + '/native', os.O_RDONLY)
say(attempt(lambda: mmap.mmap(file, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)))
""",
        held=REFUSED,
        # bubblewrap and gVisor know no noexec there, Landlock governs execve alone. It adds nothing: a cell can write
        # machine code into memory anyway, and every system call of it meets the same filters.
        but={name: REFUSED | {"done"} for name in ("docker+runsc", "process", "process-landlock")},
    ),
    Case(
        name="leave its namespaces by their files",
        code="for kind in ('mnt', 'net', 'pid', 'user', 'uts', 'ipc', 'cgroup'):\n    for pid in ('1', 'self'):\n"
        "        try: way = os.open(f'/proc/{pid}/ns/{kind}', os.O_RDONLY)\n        except OSError as error: say(_e.errorcode[error.errno]); continue\n"
        f"        say(call({HERE.numbers['setns']}, way, 0)); os.close(way)",
        held=REFUSED | {"ENOENT", "ENXIO"},
    ),
)

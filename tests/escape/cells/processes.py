"""Other processes: the supervisor, the zygote, the host's. The kernel has their uid and sees their pids."""

from sandbox_image.syscalls import this_architecture
from tests.escape.case import LANDLOCK, REFUSED, RUNSC, SHUT, Case, Harm, words

_N = this_architecture().numbers
_OTHERS = """
others = [1, os.getppid(), bait_pid]
"""
_GONE = REFUSED | {"ESRCH"}

CASES = (
    *(
        Case(
            name=f"send {signal} to supervisor, zygote and host",
            code=f"import signal\n{_OTHERS}say(*[attempt(os.kill, pid, signal.{signal}) for pid in others])",
            held=_GONE,
        )
        for signal in ("SIGINT", "SIGTERM", "SIGKILL", "SIGSTOP", "SIGHUP", "SIGSEGV", "SIGUSR1", "SIGCHLD", "SIGRTMIN")
    ),
    Case(
        name="send SIGKILL to everybody",
        code="say(attempt(os.kill, -1, 9), attempt(os.killpg, 0, 9), attempt(os.kill, 0, 9))",
        held=_GONE,
    ),
    Case(
        name="send signals by threads, queues and descriptors",
        code=f"{_OTHERS}for pid in others: say(call({_N['tkill']}, pid, 9), call({_N['tgkill']}, pid, pid, 9), call({_N['rt_sigqueueinfo']}, pid, 9, 0),\n"
        f"    call({_N['pidfd_open']}, pid, 0), call({_N['pidfd_send_signal']}, 0, 9, 0, 0))",
        held=_GONE,
    ),
    Case(
        name="have Linux signal for it",
        code="""
import fcntl, socket
near, far = socket.socketpair()
say(attempt(fcntl.fcntl, near, fcntl.F_SETOWN, os.getppid()), attempt(fcntl.fcntl, near, fcntl.F_SETOWN, -1),
    attempt(fcntl.fcntl, near, fcntl.F_SETFL, os.O_ASYNC), attempt(fcntl.fcntl, near, 10, 9))
""",
        held=REFUSED,
    ),
    Case(
        name="trace another process",
        code=f"{_OTHERS}for pid in others: say(call({_N['ptrace']}, 16, pid, 0, 0), call({_N['ptrace']}, 0x4206, pid, 0, 0))",
        held=_GONE,
    ),
    Case(
        name="read and write another process's memory by call",
        code=f"{_OTHERS}for pid in others: say(call({_N['process_vm_readv']}, pid, 0, 0, 0, 0, 0), call({_N['process_vm_writev']}, pid, 0, 0, 0, 0, 0))",
        held=_GONE,
    ),
    Case(
        name="open another process's memory",
        code=f"{_OTHERS}for pid in others:\n    for name in ('mem', 'auxv', 'syscall', 'stack', 'pagemap'): say(attempt(os.open, f'/proc/{{pid}}/{{name}}', os.O_RDONLY))\n"
        "    say(attempt(os.open, f'/proc/{pid}/mem', os.O_RDWR))",
        held=SHUT | {"ESRCH"},
        # gVisor shows an auxv of its own guest's processes; it holds addresses and nothing else.
        but={RUNSC: SHUT | {"ESRCH", "done"}},
    ),
    Case(
        name="open the supervisor's memory under gVisor",
        code="say(attempt(os.open, '/proc/1/mem', os.O_RDONLY), attempt(os.open, f'/proc/{os.getppid()}/mem', os.O_RDWR))",
        held=SHUT,
    ),
    Case(
        name="read another process's environment",
        code=f"{_OTHERS}for pid in others:\n    try: text = open(f'/proc/{{pid}}/environ', 'rb').read()\n"
        "    except OSError as error: say(_e.errorcode[error.errno]); continue\n"
        "    names = {part.split(b'=')[0].decode() for part in text.split(b'\\0') if part}\n"
        "    say('tells_nothing' if names <= {'HOME', 'HOSTNAME', 'PATH', 'PYTHONHASHSEED', 'PYTHONPATH'} else 'tells:' + ','.join(sorted(names)))",
        # bubblewrap's first process keeps its own, which is empty; gVisor shows environments to their uid.
        held=SHUT | {"ESRCH", "tells_nothing"},
    ),
    Case(
        name="list another process's descriptors",
        code=f"{_OTHERS}for pid in others: say(attempt(os.listdir, f'/proc/{{pid}}/fd'))",
        held=SHUT | {"ESRCH"},
        # gVisor lets a uid list them; the next row tries to open them.
        but={RUNSC: SHUT | {"ESRCH", "done"}},
    ),
    Case(
        name="open another process's descriptors",
        code=f"import stat\nown = os.open(tmp, os.O_RDONLY)\n{_OTHERS}for pid in others:\n"
        "    for n in range(0, 64):\n"
        "        for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):\n"
        "            try: opened = os.open(f'/proc/{pid}/fd/{n}', mode | os.O_NONBLOCK)\n"
        "            except OSError as error: say(_e.errorcode[error.errno]); continue\n"
        "            mode = os.fstat(opened).st_mode; is_tmp = os.path.sameopenfile(opened, own); os.close(opened)\n"
        "            say('tmp' if is_tmp else 'pipe' if stat.S_ISFIFO(mode) else 'null' if stat.S_ISCHR(mode) else f'opened:{n}:{mode:o}')",
        held=SHUT | {"ESRCH"},
        # gVisor opens pipes of other processes by name: the supervisor's are this kernel's own output, and its own
        # standard streams, which lead nowhere. Sockets, the ways to host and gateway, cannot be opened (ENXIO).
        but={RUNSC: SHUT | {"ESRCH", "ENXIO", "ENODEV", "EISDIR", "null", "pipe", "tmp"}},
    ),
    Case(
        name="take a descriptor from another process",
        code=f"say(*[call({_N['pidfd_getfd']}, n, 3, 0) for n in range(3, 20)])",
        held=REFUSED,
    ),
    Case(
        name="throttle the supervisor",
        code=f"import resource\n{_OTHERS}for pid in others:\n"
        "    say(attempt(os.sched_setaffinity, pid, [0]), attempt(os.setpriority, os.PRIO_PROCESS, pid, 19), attempt(resource.prlimit, pid, resource.RLIMIT_NOFILE, (3, 3)),\n"
        "        attempt(resource.prlimit, pid, resource.RLIMIT_AS, (1 << 20, 1 << 20)), attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0)))",
        held=_GONE,
    ),
    Case(
        name="raise its own priority",
        code="""
say(attempt(os.nice, -20), attempt(os.setpriority, os.PRIO_PROCESS, 0, -20), attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
    attempt(os.sched_setscheduler, 0, os.SCHED_RR, os.sched_param(99)), attempt(os.sched_setaffinity, 0, [0]))
""",
        held=REFUSED,
    ),
    Case(
        name="raise its own limits",
        code="""
import resource as r
for name in ('RLIMIT_NOFILE', 'RLIMIT_FSIZE', 'RLIMIT_STACK', 'RLIMIT_CORE', 'RLIMIT_NPROC'):
    limit = getattr(r, name); soft, hard = r.getrlimit(limit)
    if hard == r.RLIM_INFINITY: say('endless:' + name); continue
    say(attempt(r.setrlimit, limit, (hard, hard + 1)), attempt(r.setrlimit, limit, (r.RLIM_INFINITY, r.RLIM_INFINITY)))
""",
        held=REFUSED | {"ValueError"},
    ),
    Case(
        name="make others the first to go when memory is short",
        code=f"{_OTHERS}for pid in [*others, 'self']: say(attempt(open, f'/proc/{{pid}}/oom_score_adj', 'w'), attempt(open, f'/proc/{{pid}}/oom_adj', 'w'))",
        held=SHUT | {"ESRCH"},
        # gVisor's guest may set its own; the machine looks at gVisor's process, not at that.
        but={RUNSC: SHUT | {"ESRCH", "done"}},
    ),
    Case(
        name="see processes of the host",
        code="""
try: seen = [int(n) for n in os.listdir('/proc') if n.isdigit()]
except OSError as error: seen = []
say('few' if len(seen) <= 5 else f'many:{len(seen)}', *(['host'] if bait_pid in seen and bait_pid > 60 else []))
""",
        held=words("few"),
    ),
    Case(
        name="see another process's command line and maps",
        code="say(attempt(os.stat, f'/proc/{bait_pid}/cmdline'), attempt(os.open, '/proc/1/maps', os.O_RDONLY), attempt(os.open, '/proc/1/smaps', os.O_RDONLY))",
        held=SHUT,
        but={
            # The guest's own first process: addresses of gVisor's guest, of the uid's own program.
            RUNSC: SHUT | {"done"},
            # A path of the host's /proc can be seen to exist, not opened.
            LANDLOCK: SHUT | {"done"},
        },
    ),
    Case(
        name="leave a daemon behind",
        code="""
say(attempt(os.fork), attempt(os.setsid))
import subprocess
say(attempt(lambda: subprocess.Popen(['/rlm/python', '-c', 'while True: pass'], start_new_session=True)))
""",
        held=REFUSED | {"ENOENT"},
    ),
    Case(
        name="fork without end",
        code="""
import threading
found = set()
for _ in range(2000): found.add(attempt(os.fork))
say(*found)
""",
        held=REFUSED,
    ),
    Case(
        name="leave a thread that spins",
        code="""
import threading
def spin():
    while True: pass
for _ in range(4): threading.Thread(target=spin, daemon=True).start()
say('left')
""",
        held=words("left"),
        then="say('answers')",
        harm=Harm.KERNEL,
        is_heavy=True,
    ),
    Case(
        name="start threads without end",
        code="""
import threading
stop = threading.Event(); started = 0
try:
    while started < 20_000: threading.Thread(target=stop.wait, daemon=True).start(); started += 1
except (RuntimeError, MemoryError): pass
say('bounded' if started < 5_000 else 'endless'); stop.set()
""",
        held=words("bounded"),
        then="say('answers')",
        harm=Harm.KERNEL,
        is_heavy=True,
    ),
)

"""Descriptors, files, disk and processor time."""

from collections.abc import Mapping

from tests.escape.case import LANDLOCK, REFUSED, RUNSC, BackendName, Case, Harm, words

_FULL = words("ENOSPC", "EFBIG", "EMFILE", "EDQUOT", "killed", "bounded", "MemoryError")
_WITHOUT_LANDLOCK: frozenset[BackendName] = frozenset({LANDLOCK})
"""Landlock alone cannot bound /tmp: it is a directory of the host's disk (docs/limitations.md)."""


def _fill(
    name: str,
    code: str,
    *,
    absent: frozenset[BackendName] = frozenset(),
    but: Mapping[BackendName, frozenset[str]] | None = None,
    is_heavy: bool = False,
) -> Case:
    return Case(
        name=name,
        code=code,
        held=_FULL,
        but=but or {},
        then="say('answers')",
        harm=Harm.SANDBOX,
        absent=absent,
        is_heavy=is_heavy,
    )


CASES = (
    _fill(
        "open descriptors without end",
        """
held = []
def grow():
    while True: held.append(os.open('/dev/null', 0))
say(attempt(grow), 'bounded' if len(held) < 300 else f'held:{len(held)}')
[os.close(n) for n in held]
""",
    ),
    _fill(
        "one file without end",
        """
def grow():
    with open(tmp + '/large', 'wb') as file:
        while True: file.write(bytes(1 << 20))
say(attempt(grow))
""",
    ),
    _fill(
        "many files without end",
        """
def grow():
    for n in range(4096):
        with open(tmp + f'/{n}', 'wb') as file: file.write(bytes(4 << 20))
say(attempt(grow))
""",
        absent=_WITHOUT_LANDLOCK,
    ),
    _fill(
        "shared memory's file system without end",
        """
def grow():
    for n in range(4096):
        with open(f'/dev/shm/{n}', 'wb') as file: file.write(bytes(4 << 20))
say(attempt(grow))
""",
        absent=_WITHOUT_LANDLOCK,
    ),
    _fill(
        "a sparse file of a terabyte",
        """
file = os.open(tmp + '/sparse', os.O_RDWR | os.O_CREAT)
say(attempt(os.ftruncate, file, 1 << 40), attempt(os.posix_fallocate, file, 0, 1 << 40), attempt(os.pwrite, file, b'x', 1 << 40))
""",
    ),
    _fill(
        "inodes without end",
        """
def grow():
    for n in range(2_000_000): os.close(os.open(tmp + f'/i{n}', os.O_CREAT | os.O_WRONLY))
say(attempt(grow))
""",
        # gVisor takes the number of files and keeps to none: the container's memory bounds them, and ends the sandbox.
        but={RUNSC: _FULL | {"sandbox_gone"}},
        absent=_WITHOUT_LANDLOCK,
        is_heavy=True,
    ),
    Case(
        name="directories 10,000 deep",
        code="""
os.chdir(tmp)
def grow():
    for n in range(10_000): os.mkdir('d'); os.chdir('d')
found = attempt(grow); os.chdir('/')
say('bounded', 'bounded' if found in ('done', 'ENOSPC', 'EACCES', 'KeyboardInterrupt', 'ENAMETOOLONG', 'EMLINK') else found)
""",
        held=words("bounded", "killed"),
        then="say('answers')",
        takes_next=True,  # where files are counted from outside, that may come a moment later
        harm=Harm.SANDBOX,
        active_limit_s=5,  # Landlock walks up to the root at every one
    ),
    Case(
        name="watches, queues and semaphores",
        code="""
import ctypes.util
for name, arguments in (('inotify_init', ()), ('inotify_init1', (0,)), ('mq_open', (b'/q', 0o102, 0o600, None)), ('semget', (0, 1, 0o1600)), ('shmget', (0, 4096, 0o1600)), ('msgget', (0, 0o1600))):
    f = getattr(_libc, name); _c.set_errno(0); say('done' if f(*arguments) >= 0 else _e.errorcode[_c.get_errno()])
""",
        held=REFUSED,
    ),
    Case(
        name="files owned by others, or with more rights",
        code="""
open(tmp + '/own', 'w').close()
say(attempt(os.chmod, tmp + '/own', 0o6777), attempt(os.chown, tmp + '/own', 0, 0), attempt(os.setxattr, tmp + '/own', 'security.capability', b'x'))
""",
        held=REFUSED | {"EOPNOTSUPP"},
    ),
    Case(
        name="spin past its time on every core",
        code="""
import threading
def spin():
    while True: hash(b'x' * 1000)
for _ in range(8): threading.Thread(target=spin, daemon=True).start()
spin()
""",
        held=words("timed_out", "killed"),
        then="say('answers')",
        harm=Harm.KERNEL,
        active_limit_s=0.5,
        is_heavy=True,
    ),
    Case(
        name="spin beside a parked host call",
        code="""
import threading
threading.Thread(target=llm_query, args=('parked',), daemon=True).start()
while True: pass
""",
        held=words("timed_out", "killed"),
        then="say('answers')",
        harm=Harm.KERNEL,
        active_limit_s=0.5,
        is_heavy=True,
    ),
    Case(
        name="sleep past its time",
        code="""
import time
while True:
    try: time.sleep(1000)
    except KeyboardInterrupt: pass
""",
        held=words("timed_out", "killed"),
        then="say('answers')",
        harm=Harm.KERNEL,
        active_limit_s=0.3,
        is_heavy=True,
    ),
    Case(
        name="an alarm clock for somebody else",
        code="""
import signal
for found in (attempt(signal.setitimer, signal.ITIMER_REAL, 0), attempt(signal.alarm, 0)):
    say('own' if found == 'done' else found)
from sandbox_image.syscalls import this_architecture
say(call(this_architecture().numbers['timer_create'], 0, 0, 0))
""",
        held=REFUSED | {"own"},
    ),
)

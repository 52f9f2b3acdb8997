"""Memory, by every road there is. The limit is the template's; past it an attack gets an error or loses its kernel."""

from collections.abc import Mapping

from tests.escape.case import LANDLOCK, RUNSC, BackendName, Case, Harm, words

_HELD = words(
    "MemoryError",
    "ENOMEM",
    "killed",
    "bounded",
    "EPERM",
    "BlockingIOError",
    "EAGAIN",
    "EMFILE",
    "EACCES",
    "raised:MemoryError",
    "ENOSPC",
    "EFBIG",
)


def _survived(name: str, code: str, *held: str, is_heavy: bool = True) -> Case:
    """One that ends in an error, after which every variable is there still."""
    return Case(
        name=name,
        code="survivor = ['as it was']\n" + code,
        held=words(*held),
        then="say(*survivor)",
        then_held=words("as_it_was"),
        harm=Harm.KERNEL,
        is_heavy=is_heavy,
    )


def _bomb(
    name: str,
    code: str,
    *,
    is_heavy: bool = True,
    absent: frozenset[BackendName] = frozenset(),
    but: Mapping[BackendName, frozenset[str]] | None = None,
) -> Case:
    return Case(
        name=name,
        code=code,
        held=_HELD,
        but=but or {},
        then="say('answers')",
        harm=Harm.KERNEL,
        is_heavy=is_heavy,
        absent=absent,
    )


CASES = (
    _survived(
        "one allocation past all memory",
        "say(attempt(bytearray, 1 << 34), attempt(bytes, 1 << 45), attempt(lambda: 'x' * (1 << 40)))",
        "MemoryError",
        is_heavy=False,
    ),
    _survived(
        "a list that doubles",
        """
def grow():
    a = [0]
    while True: a += a
say(attempt(grow))
""",
        "MemoryError",
    ),
    _survived(
        "many small objects",
        """
def grow():
    a = []
    while True: a.append({})
say(attempt(grow))
""",
        "MemoryError",
        "raised:MemoryError",  # no room to say so
    ),
    _survived(
        "a number without end",
        """
def grow():
    n = 1 << 1000
    while True: n = n << (n.bit_length())
say(attempt(grow))
""",
        "MemoryError",
    ),
    _survived(
        "malloc in C",
        """
_libc.malloc.restype = _c.c_void_p
held = 0
for _ in range(4096):
    at = _libc.malloc(_c.c_size_t(16 << 20))
    if not at: break
    _c.memset(at, 1, 16 << 20); held += 1
say('bounded' if held < 64 else f'held:{held}')
""",
        "bounded",
    ),
    _survived(
        "private mappings",
        """
import mmap
held = []
def grow():
    while len(held) < 4096:
        block = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); block[0:16 << 20:4096] = bytes(4096); held.append(block)
found = attempt(grow)
say(found if len(held) < 64 else f'held:{len(held)}')
held.clear()
""",
        "ENOMEM",
        "MemoryError",
    ),
    _bomb(
        "shared mappings, which no limit counts",
        """
import mmap
say(attempt(mmap.mmap, -1, 256 << 20), attempt(lambda: mmap.mmap(os.open('/dev/zero', os.O_RDWR), 256 << 20)))
""",
        is_heavy=False,
    ),
    _bomb(
        "shared memory by name",
        """
from multiprocessing import shared_memory
say(attempt(shared_memory.SharedMemory, None, True, 256 << 20))
""",
        is_heavy=False,
    ),
    _bomb(
        "mappings made read-only once they are written",
        """
import mmap
held = []
def grow():
    while len(held) < 4096:
        block = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); block[0:16 << 20:4096] = bytes(4096)
        at = _c.addressof(_c.c_char.from_buffer(block)); _libc.mprotect(_c.c_void_p(at), _c.c_size_t(16 << 20), 1); held.append(block)
found = attempt(grow)
say(found if len(held) < 200 else f'held:{len(held)}')
""",
        absent=frozenset({LANDLOCK}),  # nothing in there may look at /proc, so nobody notices (docs/limitations.md)
    ),
    _bomb(
        "tables of pages that are only read",
        """
_libc.mmap.restype = _c.c_void_p; held = 0
for _ in range(2_000):
    at = _libc.mmap(None, _c.c_size_t(1 << 30), 1, 0x4022, -1, 0)
    if at in (None, 2**64 - 1): break
    _libc.madvise(_c.c_void_p(at), _c.c_size_t(1 << 30), 15)
    for step in range(512): _c.c_char.from_address(at + (step << 21)).value
    held += 1
say('bounded' if held < 1_000 else f'held:{held}')
""",
        absent=frozenset({LANDLOCK}),  # nothing in there may look at /proc, so nobody notices (docs/limitations.md)
    ),
    _bomb(
        "mappings without end",
        """
import mmap
held = []
def grow():
    while len(held) < 200_000: held.append(mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=1 + len(held) % 2 * 2))
found = attempt(grow); held.clear(); say(found)
""",
        # gVisor's guest has no limit on their number, only on the memory that its container gives them.
        but={RUNSC: _HELD | {"done", "timed_out"}},
    ),
    Case(
        name="larger stacks",
        code="""
import threading, resource
def start():
    threading.stack_size(1 << 31)
    held = [threading.Thread(target=lambda: None) for _ in range(8)]
    [t.start() for t in held]
say(attempt(start)); threading.stack_size(2 << 20)
""",
        held=words("MemoryError", "RuntimeError", "ValueError"),
        harm=Harm.KERNEL,
    ),
    _bomb(
        "pipes",
        """
held = []
def grow():
    while True:
        r, w = os.pipe(); os.set_blocking(w, False); held.append(r); held.append(w)
        try: os.write(w, bytes(1 << 20))
        except BlockingIOError: pass
say(attempt(grow))
[os.close(n) for n in held]
""",
        is_heavy=False,
    ),
    _bomb(
        "pairs of sockets",
        """
import socket
held = []
def grow():
    while True:
        a, b = socket.socketpair(); a.setblocking(False); held.append((a, b))
        try:
            while True: a.send(bytes(65536))
        except BlockingIOError: pass
say(attempt(grow))
held.clear()
""",
        is_heavy=False,
    ),
    _bomb(
        "larger pipes and sockets",
        """
import fcntl, socket
say(attempt(fcntl.fcntl, os.pipe()[1], 1031, 1 << 20), attempt(socket.socketpair()[0].setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30))
""",
        is_heavy=False,
    ),
    _survived(
        "a text that repeats itself",
        """
import re
say(attempt(lambda: re.sub('', 'x' * 1000, 'y' * 10_000_000)))
""",
        "MemoryError",
    ),
    _survived(
        "a compressed bomb",
        """
import zlib
packed = zlib.compress(bytes(100 << 20), 9)
say(attempt(lambda: [zlib.decompress(packed) for _ in range(100)]))
""",
        "MemoryError",
    ),
    _survived(
        "a deep structure",
        """
def grow():
    a = []
    while True: a = [a, bytes(1000)]
say(attempt(grow))
""",
        "MemoryError",
    ),
    _bomb(
        "source without end",
        "say(attempt(compile, '(' * 100_000 + ')' * 100_000, 'x', 'eval') and 'bounded', attempt(eval, '-' * 1_000_000 + '1') and 'bounded')",
        is_heavy=False,
    ),
    _survived(
        "an error that holds a gigabyte", "raise ValueError('x' * (1 << 30))", "raised:MemoryError", is_heavy=False
    ),
    _bomb(
        "futexes, events and timers",
        """
held = []
def grow():
    while True: held.append(os.eventfd(0))
say(attempt(grow))
[os.close(n) for n in held]
""",
        is_heavy=False,
    ),
)

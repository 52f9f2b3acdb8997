"""What a cell may take: memory, threads, files and descriptors."""

from tests.sandbox_image.host import Host, alive, start_host


def test_memory_runs_out_as_an_exception(host: Host) -> None:
    """Exhausting the memory limit raises `MemoryError` with the variables intact, and `del` makes room again."""
    code = "kept = 1\nhoard = []\nwhile True: hoard.append(bytearray(10_000_000))"
    reply = host.run(code)
    assert (reply["status"], reply["raised"]["type_name"]) == ("raised", "MemoryError")
    assert reply["namespace_lost"] is False
    assert host.run("print(kept, len(hoard) > 50)")["stdout"]["head"] == "1 True\n"
    assert host.run("del hoard\nx = bytearray(500_000_000)\nlen(x)")["stdout"]["head"] == "500000000\n"


def test_small_pieces_of_memory_run_out_too() -> None:
    """A hoard of small objects ends the same way, and the claim's memory is the limit."""
    with start_host() as host:
        host.claim(memory_bytes=160 << 20)
        reply = host.run("kept = 1\nhoard = []\nwhile True: hoard.append([1.5, 'x' * 50])")
        assert (reply["status"], reply["namespace_lost"]) == ("raised", False), reply
        assert reply["raised"]["type_name"] == "MemoryError"
        assert host.run("more = []\nwhile True: more.append([2.5])")["raised"]["type_name"] == "MemoryError"
        assert host.run("del hoard, more")["status"] == "ok"
        assert host.run("x = ['y' * 1000 for _ in range(50_000)]\nprint(kept)")["stdout"]["head"] == "1\n"


HIDE_MEMORY = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
def hoard(pieces):
    for _ in range(pieces):
        start = libc.mmap(None, 16 << 20, 3, 0x22, -1, 0)
        ctypes.memset(start, 1, 16 << 20)
        libc.mprotect(start, 16 << 20, 1)
"""


def test_memory_that_its_limit_does_not_count_ends_a_kernel() -> None:
    """Pages that were written and made read-only escape the kernel's own limit, but not the supervisor's eye."""
    with start_host(landlock=False) as host:
        assert "memory-watch" in host.claim(memory_bytes=128 << 20)["confinement"]
        assert host.run(HIDE_MEMORY + "hoard(2)")["status"] == "ok"
        reply = host.run("while True: hoard(1)")
        assert (reply["status"], reply["namespace_lost"]) == ("killed", True)
        assert reply["detail"] == "the interpreter was ended: it took more memory than its 128 MiB"
        alive(host)


def test_a_thread_bomb_is_harmless(host: Host) -> None:
    """Threads without end run into a limit inside the kernel; the supervisor goes on."""
    code = (
        "import threading\nstop = threading.Event()\nmade = 0\ntry:\n    while made < 5000:\n"
        "        threading.Thread(target=stop.wait, daemon=True).start()\n        made += 1\n"
        "except RuntimeError as e:\n    print('limited')\nstop.set()"
    )
    assert host.run(code)["stdout"]["head"] == "limited\n"
    alive(host)


FILL_MEMORY = """
import mmap, threading
def taken(size):
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
stack, pages, hoard, size = taken(2 << 20), [taken(4096) for _ in range(600)], [], 64 << 20
while size >= 4096:
    try:
        hoard.append(taken(size))
    except OSError:
        size //= 2
stack.close()
"""


def test_a_thread_that_nearly_fits_is_refused(host: Host) -> None:
    """Whatever memory is left beside a thread's stack, starting one ends: with a thread, or with `RuntimeError`."""
    code = (
        "started = refused = 0\nfor page in pages:\n    try:\n        thread = threading.Thread(target=int)\n"
        "        thread.start()\n        thread.join()\n        started += 1\n"
        '    except RuntimeError as error:\n        assert str(error) == "can\'t start new thread"\n'
        "        refused += 1\n    page.close()\nhoard.clear()\nprint(started > 0, refused > 0)"
    )
    reply = host.run(FILL_MEMORY + code)
    assert (reply["status"], reply["stdout"]["head"]) == ("ok", "True True\n"), reply


def test_a_thread_that_dies_before_it_reports_in_is_an_error(host: Host) -> None:
    """`Thread.start` does not wait for a thread that is over; a thread that lives is waited for as ever."""
    code = (
        "import threading\nclass Stillborn(threading.Thread):\n    def _bootstrap(self): raise MemoryError\n"
        "before = threading.active_count()\ntry:\n    Stillborn().start()\nexcept RuntimeError as error:\n"
        "    print(error, threading.active_count() - before, len(threading.enumerate()) - before)\n"
        "threading.Thread(target=print, args=('lives',)).start()"
    )
    assert host.run(code)["stdout"]["head"] == "can't start new thread 0 0\nlives\n"


def test_files_and_descriptors_are_limited(host: Host) -> None:
    """A file grows to its cap, and descriptors run out, as ordinary errors."""
    reply = host.run("with open('big', 'wb') as f:\n    f.truncate(1 << 40)")
    assert reply["raised"]["type_name"] == "OSError"
    reply = host.run("fs = []\nwhile True: fs.append(open('/dev/null'))")
    assert "Too many open files" in reply["raised"]["message"]
    alive(host)


def test_memory_taken_between_cells_ends_a_kernel_too() -> None:
    """What a leftover thread takes is found while nobody asks, and the next cell is told."""
    with start_host(landlock=False) as host:
        host.claim(memory_bytes=128 << 20)
        flag = host.directory / "contexts" / "take"
        code = f"while not os.path.exists({str(flag)!r}): time.sleep(0.001)\n    hoard(30)"
        host.run(f"{HIDE_MEMORY}import os, threading, time\ndef late():\n    {code}\n")
        assert host.run("threading.Thread(target=late).start()")["status"] == "ok"
        flag.touch()
        while host.request("GET", "/stats").json["kernel_lives"] == 1:
            pass
        reply = host.run("print('ran')")
        assert (reply["status"], reply["namespace_lost"], reply["stdout"]["head"]) == ("killed", True, "")
        assert "more memory than its 128 MiB" in reply["detail"]
        alive(host)

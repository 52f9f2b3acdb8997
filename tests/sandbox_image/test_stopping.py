"""How cells are stopped, how kernels die, and what is left."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from sandbox_image.protocol import ErrorCode
from tests.sandbox_image.host import PATIENCE_S, Host, alive, children

SHORT: dict[str, Any] = {"active_limit_s": 0.3, "grace_s": 1.0}


@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import threading\nthreading.Event().wait()",
        "while True: print('x')",
        "import re\nre.match(r'(a+)+$', 'a' * 60 + 'b')",
        "class R:\n    def __repr__(self):\n        while True: pass\nR()",
        "class A:\n    def __str__(self):\n        while True: pass\nFINAL(A())",
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        "import asyncio\nawait asyncio.sleep(1000)",
        "try:\n    while True: pass\nfinally:\n    cleaned = 1",
    ],
)
def test_an_endless_cell_is_interrupted_and_variables_survive(host: Host, loop: str) -> None:
    """A loop of Python ends with `KeyboardInterrupt`, wherever it hangs, and keeps its variables."""
    reply = host.run("kept = 5\n" + loop, **SHORT)
    assert (reply["status"], reply["namespace_lost"]) == ("timed_out", False), reply
    assert "0.3 s of active time" in reply["detail"]
    assert host.run("print(kept)")["stdout"]["head"] == "5\n"
    assert host.request("GET", "/stats").json["kernel_lives"] == 1


@pytest.mark.parametrize(
    "loop",
    [
        "import time\nwhile True:\n    try: time.sleep(1000)\n    except BaseException: pass",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\nwhile True: pass",
        "sum(range(10**14))",
    ],
)
def test_a_cell_that_ignores_the_interrupt_loses_its_kernel(host: Host, loop: str) -> None:
    """After the grace the kernel is killed; the cell timed out, the namespace is lost, and a new one is there."""
    host.run("old = 1")
    reply = host.run("print('before')\n" + loop, active_limit_s=0.2, grace_s=0.3)
    assert (reply["status"], reply["namespace_lost"], reply["raised"]) == ("timed_out", True, None)
    assert "ignored the interrupt" in reply["detail"]
    assert reply["stdout"]["head"] == "before\n"
    assert host.evaluate("'old' in globals()") is False
    assert host.request("GET", "/stats").json["kernel_lives"] == 2


def test_signal_handlers_of_one_cell_do_not_spoil_the_next(host: Host) -> None:
    """SIGINT works again in the cell after one that ignored it."""
    host.run("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert host.run("while True: pass", **SHORT)["namespace_lost"] is False


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint('a')", id="detached"),
        pytest.param("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint('a')", id="wrapped"),
        pytest.param("import sys\nsys.stderr.buffer.detach()", id="detached-below"),
        pytest.param("import sys\nsys.stdout.close()", id="closed"),
        pytest.param("import sys\nsys.settrace(lambda *_: 1 / 0)", id="traced"),
        pytest.param("import sys\nsys.setprofile(lambda *_: 1 / 0)", id="profiled"),
        pytest.param("class E(Exception):\n    __traceback__ = property(lambda e: None)\nraise E", id="traceback"),
        pytest.param("class D(dict):\n    def __contains__(self, k): 1 / 0\nanswer = D()", id="answer"),
    ],
)
def test_nothing_that_a_cell_leaves_behind_reaches_the_kernel(host: Host, code: str) -> None:
    """Replaced streams, trace functions and odd classes cost no later cell its output or its variables."""
    host.run("kept = 5\n" + code)
    reply = host.run("print(kept); import sys; print(sys.gettrace(), sys.getprofile(), file=sys.stderr)")
    assert (reply["status"], reply["stdout"]["head"], reply["stderr"]["head"]) == ("ok", "5\n", "None None\n"), reply
    assert host.request("GET", "/stats").json["kernel_lives"] == 1


def test_a_replaced_stream_is_no_error(host: Host) -> None:
    """A cell that writes through a stream of its own over ours has its output, and has not failed."""
    reply = host.run("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint('é')")
    assert (reply["status"], reply["stdout"]["head"]) == ("ok", "é\n")


def test_a_closed_event_loop_is_replaced(host: Host) -> None:
    """Top-level `await` works in the cells after one that closed the event loop."""
    host.run("import asyncio\nawait asyncio.sleep(0)")
    assert host.run("asyncio.get_event_loop().close()")["status"] == "ok"
    assert host.run("print(await asyncio.sleep(0, 'slept'))")["stdout"]["head"] == "slept\n"


def test_a_handler_is_called_in_cells_only(host: Host) -> None:
    """A signal between cells is dropped; in a later cell the handler that an earlier one set is called as ever."""
    code = (
        "import os, signal, threading, time\nkept, calls = 5, []\n"
        "def raises(*_): calls.append(1); raise TimeoutError('too slow')\n"
        "print(signal.signal(signal.SIGUSR1, raises) == signal.SIG_IGN, signal.getsignal(signal.SIGUSR1) is raises)\n"
        "def send():\n    while not os.path.exists('go'): time.sleep(0.001)\n"
        "    for _ in range(1000): os.kill(os.getpid(), signal.SIGUSR1); time.sleep(0)\n"
        "    open('sent', 'w').close()\n"
        "threading.Thread(target=send).start()"
    )
    assert host.run(code)["stdout"]["head"] == "True True\n"
    (host.directory.parent / "tmp" / "go").touch()
    while not (host.directory.parent / "tmp" / "sent").exists():
        assert host.process.poll() is None
    assert host.run("print(kept, calls)")["stdout"]["head"] == "5 []\n"
    reply = host.run("os.kill(os.getpid(), signal.SIGUSR1)\nwhile True: pass")
    assert (reply["status"], reply["raised"]["type_name"]) == ("raised", "TimeoutError")
    assert host.run("print(kept, calls)")["stdout"]["head"] == "5 [1]\n"


def test_a_timer_ends_with_its_cell(host: Host) -> None:
    """An alarm that a cell has left running strikes no later cell."""
    code = (
        "import signal\ndef raises(*_): raise TimeoutError\nsignal.signal(signal.SIGALRM, raises); signal.alarm(10_000)"
    )
    assert host.run(code)["status"] == "ok"
    assert host.evaluate("signal.getitimer(signal.ITIMER_REAL)") == [0.0, 0.0]


def test_a_swallowed_interrupt_is_repeated(host: Host) -> None:
    """An interrupt lost in a finalizer comes a second time."""
    code = "class D:\n    def __del__(self):\n        while True: pass\nd = D()\ndel d\nwhile True: pass"
    reply = host.run(code, active_limit_s=0.2, grace_s=2.0)
    assert (reply["status"], reply["namespace_lost"]) == ("timed_out", False)


def test_wall_time_is_a_limit_of_its_own(host: Host) -> None:
    """A cell that sleeps beyond its wall limit is stopped, whatever its active limit."""
    reply = host.run("import time\ntime.sleep(1000)", wall_limit_s=0.3)
    assert (reply["status"], reply["detail"]) == ("timed_out", "stopped after 0.3 s")


def test_an_interrupt_from_outside_is_an_exception(host: Host) -> None:
    """`/interrupt` makes the running cell raise `KeyboardInterrupt`, and nothing else."""
    host.run("kept = 1")
    host.send("cells", "PUT", "/cells/stopme", host.cell_body("while True: pass"))
    host.wait_stat("running_cell", "stopme")
    assert host.request("POST", "/interrupt", {"cell_id": "another"}).status == 200
    assert host.request("POST", "/interrupt", {"cell_id": "stopme"}).status == 200
    reply = host.receive("cells").json
    assert (reply["status"], reply["raised"]["type_name"]) == ("raised", "KeyboardInterrupt")
    assert host.request("POST", "/interrupt", {"cell_id": "stopme"}).status == 200
    assert host.run("print(kept)")["stdout"]["head"] == "1\n"


def test_an_interrupt_that_comes_early_is_not_lost(host: Host) -> None:
    """An interrupt sent right behind the cell stops it, even before its first line, long before the grace is over."""
    endless = dict.fromkeys(("active_limit_s", "wall_limit_s", "grace_s"), 10 * PATIENCE_S)  # no reply would come
    for attempt in range(20):
        cell_id = f"early{attempt}"
        host.stream("control")
        host.send("cells", "PUT", f"/cells/{cell_id}", host.cell_body("while True: pass", **endless))
        while host.request("GET", "/stats").json["running_cell"] != cell_id:
            pass
        host.request("POST", "/interrupt", {"cell_id": cell_id})
        reply = host.receive("cells").json
        assert reply["raised"]["type_name"] == "KeyboardInterrupt"


def test_an_interrupt_that_is_ignored_kills_after_the_grace(host: Host) -> None:
    """An interrupt from outside climbs the same ladder."""
    code = (
        "import time\nwhile True:\n    try:\n        open('in', 'w').close(); time.sleep(1000)\n"
        "    except BaseException: pass"
    )
    host.send("cells", "PUT", "/cells/stubborn", host.cell_body(code, grace_s=0.3))
    while not (host.directory.parent / "tmp" / "in").exists():
        pass
    host.request("POST", "/interrupt", {"cell_id": "stubborn"})
    reply = host.receive("cells").json
    assert (reply["status"], reply["namespace_lost"]) == ("killed", True)
    alive(host)


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("import os\nos._exit(3)", "exited with code 3"),
        ("import os\nos._exit(0)", "exited with code 0"),
        ("import os\nos.abort()", "SIGABRT"),
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os\nos.closerange(3, 1000)\nprint(1)", ""),
        (
            "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'garbage ' * 10)\n    except OSError: pass",
            "broke the protocol",
        ),
        (
            "import os, socket\nfor fd in range(3, 20):\n    try: socket.socket(fileno=fd).shutdown(2)\n"
            "    except OSError: pass",
            "",
        ),
    ],
)
def test_a_dead_kernel_is_a_result(host: Host, code: str, detail: str) -> None:
    """However a kernel dies, the cell is `killed`, what it printed is kept, and the next cell has a new kernel."""
    reply = host.run("print('said')\n" + code)
    assert (reply["status"], reply["namespace_lost"], reply["raised"]) == ("killed", True, None), reply
    assert reply["stdout"]["head"].startswith("said\n")
    assert detail in reply["detail"]
    alive(host)


SAY = """
import json, os, socket, struct, sys
def say(did, body, times=1):
    frame = json.dumps({"did": did}).encode(), json.dumps(body).encode()
    for fd in range(3, 12):
        try: s = socket.socket(fileno=os.dup(fd))
        except OSError: continue
        s.sendall((struct.pack('>II', *map(len, frame)) + b"".join(frame)) * times)
        break
    while True: pass
"""
FORGED = '{"status": "ok", "raised": None, "variables": [], "answer": None}'


@pytest.mark.parametrize(
    "forged",
    [
        *(f'say("failed", {{"code": "{code}", "message": "m"}})' for code in ErrorCode),
        'say("failed", {"code": "no such code", "message": "m"})',
        'say("variables", {"variables": []})',
        'say("ready", {"confinement": []})',
        'say(["cell"], {})',
    ],
)
def test_a_cell_cannot_fail_in_other_words(host: Host, forged: str) -> None:
    """A kernel that answers a cell with an error of the supervisor's, or of another request, is one that broke."""
    reply = host.run(SAY + forged)
    assert (reply["status"], reply["namespace_lost"]) == ("killed", True)
    assert "broke the protocol" in reply["detail"]
    alive(host)


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/variables", None, "busy"),
        ("GET", "/variables", None, "not_found"),
        ("GET", "/values/x", None, "stale_generation"),
        ("GET", "/values/x", None, "internal"),
        ("POST", "/bind", {"bindings": []}, "not_claimed"),
    ],
)
def test_a_kernel_cannot_answer_for_the_supervisor(host: Host, method: str, path: str, body: Any, code: str) -> None:
    """Each request can fail in its own ways only; a kernel that claims another one is lost, and the host is told."""
    host.run(
        SAY + "import sandbox_image.kernel as k\n"
        f"def lie(self, *_): say('failed', {{'code': {code!r}, 'message': 'm'}})\n"
        "k.Kernel._bind = k.Kernel._list_variables = k.Kernel._send_value = lie"
    )
    answered = host.request(method, path, body)
    assert (answered.status, answered.json["code"]) == (503, "kernel_lost")
    assert "broke the protocol" in answered.json["message"]


def test_an_answer_in_advance_answers_nothing(host: Host) -> None:
    """What a kernel says beyond its answer is not taken for the answer to the next cell."""
    assert host.run(SAY + f"say('cell', {FORGED}, times=2)")["status"] == "ok"
    reply = host.run("print('ran')")
    assert (reply["status"], reply["stdout"]["head"]) == ("killed", "")
    assert "without being asked" in reply["detail"]
    alive(host)


def test_a_kernel_that_dies_between_cells_is_told(host: Host) -> None:
    """The next cell is not run in a namespace that is silently new: it says that the old one was lost."""
    host.run("x = 1")
    flag = host.directory / "contexts" / "die"
    wait = f"while not os.path.exists({str(flag)!r}): time.sleep(0.001)"
    code = f"import threading, os, time\ndef die():\n    {wait}\n    os._exit(9)"
    assert host.run(code + "\nthreading.Thread(target=die).start()")["status"] == "ok"
    flag.touch()
    (zygote,) = children(host.process.pid)
    while children(zygote):
        pass
    reply = host.run("print('ran')")
    assert (reply["status"], reply["namespace_lost"]) == ("killed", True)
    assert "exited with code 9" in reply["detail"]
    alive(host)


def test_a_loss_is_not_told_as_an_earlier_time_out(host: Host) -> None:
    """A cell that never ran, for its kernel died after a cell that had timed out, is told of that death alone."""
    code = (
        "import threading, os, time\n"
        "def die():\n    while not os.path.exists('die'): time.sleep(0.001)\n    os._exit(9)\n"
        "threading.Thread(target=die).start()\nwhile True: pass"
    )
    reply = host.run(code, active_limit_s=0.3, grace_s=PATIENCE_S)
    assert (reply["status"], reply["namespace_lost"]) == ("timed_out", False)
    (zygote,) = children(host.process.pid)
    (kernel,) = children(zygote)
    (host.directory.parent / "tmp" / "die").touch()
    while kernel in children(zygote):
        pass
    reply = host.run("print('ran')")
    assert (reply["status"], reply["stdout"]["head"]) == ("killed", "")
    assert "exited with code 9" in reply["detail"]
    assert "s of active time" not in reply["detail"]
    alive(host)


def test_what_a_cell_left_spinning_is_stopped_between_cells(host: Host) -> None:
    """A leftover thread takes next to no processor time while no cell runs, and goes on beside the next one."""
    host.run(
        "import threading\nrounds, done = 0, False\ndef spin():\n    global rounds\n"
        "    while not done: rounds += 1\nthread = threading.Thread(target=spin); thread.start()"
    )
    (zygote,) = children(host.process.pid)
    (kernel,) = children(zygote)
    while state_of(kernel) != "T":
        assert host.process.poll() is None
    before = host.run("before = rounds\nwhile rounds == before: pass\nprint('went on')")
    assert (before["status"], before["stdout"]["head"]) == ("ok", "went on\n")
    while state_of(kernel) != "T":
        assert host.process.poll() is None
    assert host.request("GET", "/variables").status == 200
    while state_of(kernel) != "T":
        assert host.process.poll() is None
    assert host.run("while True: pass", **SHORT)["namespace_lost"] is False
    assert host.run("done = True; thread.join(); print('joined')")["stdout"]["head"] == "joined\n"
    assert host.request("GET", "/stats").json["kernel_lives"] == 1


def test_a_stopped_kernel_can_be_restarted(host: Host) -> None:
    """Being stopped between cells keeps nobody from ending it."""
    host.run("import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()")
    (zygote,) = children(host.process.pid)
    (kernel,) = children(zygote)
    while state_of(kernel) != "T":
        assert host.process.poll() is None
    assert host.request("POST", "/restart", {}).status == 200
    alive(host)
    assert children(zygote) != [kernel]


def state_of(pid: int) -> str:
    """As `ps` has it: S, R, T …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_restart_empties_the_namespace(host: Host) -> None:
    """After `/restart` there is one new kernel; a cell that ran meanwhile was killed."""
    host.run("x = 1")
    assert host.request("POST", "/restart", {}).status == 200
    assert host.evaluate("'x' in globals()") is False
    host.send("cells", "PUT", "/cells/long", host.cell_body("while True: pass"))
    host.wait_stat("running_cell", "long")
    assert host.request("POST", "/restart", {}).status == 200
    reply = host.receive("cells").json
    assert (reply["status"], reply["namespace_lost"], reply["detail"]) == ("killed", True, "it was restarted")
    alive(host)
    assert host.request("GET", "/stats").json["kernel_lives"] == 3


def test_reading_a_hostile_value_is_bounded(host: Host) -> None:
    """A value whose `str` kills the kernel is an error for the reader, and the next cell tells of the loss."""
    host.run("import os\nclass Bad:\n    def __str__(self): os._exit(4)\nbad = Bad()")
    answered = host.value("bad")
    assert (answered.status, answered.json["code"]) == (503, "kernel_lost")
    assert host.run("1")["namespace_lost"] is True
    alive(host)


def test_descriptors_do_not_leak_with_kernels(host: Host) -> None:
    """Twenty kernels later the supervisor has no more descriptors open than at the start."""

    def count() -> int:
        return len(os.listdir(f"/proc/{host.process.pid}/fd"))

    host.run("1")
    before = count()
    for _ in range(20):
        assert host.run("import os; os._exit(1)")["status"] == "killed"
    deadline = time.monotonic() + 60
    while count() > before:  # the last one's are closed behind its reply
        assert time.monotonic() < deadline, f"{before} descriptors became {count()}"
        host.request("GET", "/stats")

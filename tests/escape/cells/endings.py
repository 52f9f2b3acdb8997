"""Cells that will not end, and interpreters that end themselves."""

from tests.escape.case import ENDED, Case, Harm, words


def _endless(name: str, code: str, *also: str) -> Case:
    """Stopped by the supervisor, near its limit: a few seconds later the host itself ends the sandbox, which is no
    outcome that is expected here. `also` is what it says where Python drops the interrupt, and the loop with it."""
    return Case(
        name=f"endless: {name}",
        code=code,
        held=ENDED | set(also),
        then="say('answers')",
        harm=Harm.KERNEL,
        active_limit_s=0.3,
        is_heavy=True,
    )


def _death(name: str, code: str) -> Case:
    return Case(name=f"die: {name}", code=code, held=words("killed"), then="say('answers')", harm=Harm.KERNEL)


CASES = (
    _endless("a loop", "while True: pass"),
    _endless(
        "KeyboardInterrupt swallowed",
        """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    ),
    _endless(
        "SIGINT ignored",
        """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True: pass
""",
    ),
    _endless(
        "SIGINT with a handler of its own",
        """
import signal
signal.signal(signal.SIGINT, lambda *_: None)
while True: pass
""",
    ),
    _endless(
        "all signals masked",
        """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
while True: pass
""",
    ),
    _endless("a loop in C", "sum(range(10**12))"),
    _endless(
        "a regular expression",
        """
import re
re.match('(a+)+$', 'a' * 40 + 'b')
""",
    ),
    _endless("a power", "pow(7, 10**9)"),
    _endless(
        "in a finaliser",
        """
class Last:
    def __del__(self):
        say('looped')
        while True:
            try:
                while True: pass
            except BaseException: pass
x = Last(); del x
""",
        "looped",
    ),
    _endless(
        "in an exception's text",
        """
class Never(Exception):
    def __str__(self):
        while True: pass
    __repr__ = __str__
raise Never
""",
    ),
    _endless(
        "in an expression's repr",
        """
class Never:
    def __repr__(self):
        while True: pass
repr(Never())
""",
    ),
    _endless(
        "in a trace function",
        """
def trace(*_):
    say('looped')
    while True:
        try:
            while True: pass
        except BaseException: pass
sys.settrace(trace)
(lambda: None)()
""",
        "looped",
    ),
    _endless(
        "in a lock",
        """
import threading
lock = threading.Lock(); lock.acquire(); lock.acquire()
""",
    ),
    _endless(
        "in a garbage collector's callback",
        """
import gc
def back(*_):
    gc.callbacks.remove(back); say('looped')
    while True:
        try:
            while True: pass
        except BaseException: pass
gc.callbacks.append(back); gc.collect()
""",
        "looped",
    ),
    _endless(
        "without switching threads",
        """
import threading
sys.setswitchinterval(1e6)
for _ in range(4): threading.Thread(target=lambda: sum(range(10**12)), daemon=True).start()
sum(range(10**12))
""",
    ),
    _endless(
        "in a subclass of str that is the answer",
        """
class Never(str):
    def __len__(self):
        while True: pass
    __str__ = __len__
answer['content'] = Never('x'); answer['ready'] = True
len(answer['content'])
""",
    ),
    Case(
        name="re-entry by atexit, excepthook, displayhook and profilers",
        code="""
import atexit, threading
def again(*_): raise SystemExit(3)
atexit.register(again); sys.excepthook = again; sys.displayhook = again; sys.unraisablehook = again; threading.excepthook = again
threading.setprofile(again); sys.setprofile(None)
say('set')
""",
        held=words("set", "killed"),
        then="say('answers')",
        harm=Harm.KERNEL,
    ),
    _death("os._exit", "os._exit(0)"),
    _death("exit with a status of the supervisor's", "os._exit(75)"),
    _death("abort", "os.abort()"),
    _death("a null pointer", "_c.string_at(0)"),
    _death("a jump to nowhere", "_c.CFUNCTYPE(None)(1)()"),
    _death("SIGKILL to itself", "os.kill(os.getpid(), 9)"),
    _death(
        "SIGALRM to itself",
        """
import signal
signal.signal(signal.SIGALRM, signal.SIG_DFL); signal.setitimer(signal.ITIMER_REAL, 0.01)
while True: pass
""",
    ),
    _endless("stopped by its own SIGSTOP", "import signal; os.kill(os.getpid(), signal.SIGSTOP); say('went on')"),
    _death("a fatal error of Python", "_c.pythonapi.Py_FatalError(b'bait')"),
    _death("the interpreter finalised", "_c.pythonapi.Py_Finalize(); os._exit(1)"),
    Case(
        name="recursion without a limit",
        code="""
sys.setrecursionlimit(10**9)
def deep(): return deep()
say(attempt(deep))
""",
        held=words("killed", "RecursionError", "MemoryError", "SystemError", "timed_out"),
        then="say('answers')",
        harm=Harm.KERNEL,
        is_heavy=True,
    ),
    Case(
        name="exit by SystemExit",
        code="sys.exit(0)",
        held=words("raised:SystemExit", "killed", "ended"),
        then="say('answers')",
        harm=Harm.KERNEL,
    ),
    Case(
        name="raise KeyboardInterrupt itself",
        code="raise KeyboardInterrupt",
        held=words("raised:KeyboardInterrupt"),
        then="say('answers')",
        harm=Harm.KERNEL,
    ),
    Case(
        name="raise a bare BaseException",
        code="""
class Odd(BaseException): pass
raise Odd
""",
        held=words("raised:Odd"),
        then="say('answers')",
        harm=Harm.KERNEL,
    ),
    Case(
        name="close every descriptor",
        code="os.closerange(0, 256)",
        held=words("killed", "raised:OSError"),
        then="say('answers')",
        harm=Harm.KERNEL,
    ),
    Case(
        name="write garbage to every descriptor",
        code=r"""
for n in range(3, 256):
    try: os.set_blocking(n, False); os.write(n, b'\xff' * 70_000)
    except OSError: pass
say('done')
""",
        held=words("killed", "done"),
        takes_next=True,
        then="say('answers')",
        harm=Harm.KERNEL,
    ),
    Case(
        name="put other files in the place of its descriptors",
        code="""
null = os.open('/dev/null', os.O_RDONLY)
for n in range(3, 64):
    if n != null:
        try: os.fstat(n); os.dup2(null, n)
        except OSError: pass
say('done')
""",
        held=words("killed", "done"),
        takes_next=True,
        then="say('answers')",
        harm=Harm.KERNEL,
    ),
    Case(
        name="read what the supervisor sends it",
        code="""
import stat
say('done')
for n in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(n).st_mode): os.set_blocking(n, False); os.read(n, 1 << 20)
    except OSError: pass
""",
        held=words("killed", "done"),
        takes_next=True,
        then="say('answers')",
        harm=Harm.KERNEL,
    ),
)

"""What code in a cell cannot do, call by call, against bait that these tests planted.

The sandbox confines itself here (seccomp and Landlock, no namespaces), so every refusal is its own doing.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_image import landlock, seccomp, syscalls
from tests.sandbox_image.host import Host, children, python_for, start_host

EPERM, ENOSYS = 1, 38
UID = 54_321


def sandboxes() -> list[object]:
    own_uid = pytest.param(UID, marks=[pytest.mark.needs_root, pytest.mark.needs_readable_python])
    return [pytest.param(None, id="same-uid"), own_uid]


@pytest.fixture(scope="module", params=sandboxes())
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """One sandbox for all attacks: none of them may break it."""
    with start_host(uid=request.param) as started:
        started.claim()
        started.run(PRELUDE)
        yield started


PRELUDE = """
import ctypes, errno, os, socket, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(number, *arguments):
    'The errno of a raw system call, 0 when it worked.'
    ctypes.set_errno(0)
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *words) == -1 else 0
def error_of(f):
    try: f()
    except OSError as e: return e.errno
    return 0
"""


def number(name: str) -> int:
    return syscalls.this_architecture().numbers[name]


ATTACKS = sorted(set(seccomp.ATTACK_CALLS + seccomp.ATTRIBUTE_CALLS) & set(syscalls.this_architecture().numbers))


@pytest.mark.parametrize("name", ATTACKS)
def test_calls_of_attacks_are_refused(host: Host, name: str) -> None:
    """Each call that only an attack would make fails as not permitted."""
    assert host.evaluate(f"attempt({number(name)}, 0, 0, 0, 0, 0)") == EPERM


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("'socket', 1, 1, 0", EPERM),
        ("'socket', 2, 1, 0", EPERM),
        ("'socket', 10, 2, 0", EPERM),
        ("'socket', 16, 3, 0", EPERM),
        ("'socket', 17, 3, 0", EPERM),
        ("'socket', 38, 5, 0", EPERM),
        ("'socket', 40, 1, 0", EPERM),
        ("'connect', 3, 0, 0", EPERM),
        ("'socketpair', 1, 2, 0, ctypes.create_string_buffer(8)", EPERM),
        ("'kill', 1, 0", EPERM),
        ("'kill', -1, 0", EPERM),
        ("'kill', 0, 0", EPERM),
        ("'kill', os.getppid(), 0", EPERM),
        ("'tkill', os.getppid(), 0", EPERM),
        ("'tgkill', os.getppid(), os.getppid(), 0", EPERM),
        ("'clone', 17, 0, 0, 0, 0", EPERM),
        ("'clone', 0x10000000, 0, 0, 0, 0", EPERM),
        ("'clone', 0x00020000 | 0x10000 | 0x100 | 0x800, 0, 0, 0, 0", EPERM),
        ("'clone3', ctypes.create_string_buffer(88), 88", ENOSYS),
        ("'setsid'", EPERM),
        ("'seccomp', 1, 0, 0", EPERM),
        ("'prctl', 4, 1, 0, 0, 0", EPERM),
        ("'prctl', 22, 2, 0, 0, 0", EPERM),
        ("'prlimit64', os.getppid(), 7, 0, ctypes.create_string_buffer(16)", EPERM),
        ("'ioctl', 0, 0x5412, ctypes.create_string_buffer(b'x')", 25),
    ],
)
def test_arguments_are_looked_at(host: Host, arguments: str, expected: int) -> None:
    """Calls that are allowed for some arguments are refused for those that reach out."""
    name, _, rest = arguments.partition(",")
    assert host.evaluate(f"attempt({number(name.strip(chr(39)))}{',' if rest else ''}{rest})") == expected


def test_what_programs_need_still_works(host: Host) -> None:
    """Threads, pairs of sockets, pipes, files in the own directory, libraries and clocks work as ever."""
    code = """
import asyncio, concurrent.futures, mmap, sqlite3, shutil, tarfile, tempfile, time, zlib, subprocess, os, signal
async def nothing(): await asyncio.sleep(0)
asyncio.run(nothing())
with concurrent.futures.ThreadPoolExecutor(4) as pool: list(pool.map(str, range(9)))
with tempfile.TemporaryDirectory() as d:
    with sqlite3.connect(d + '/x.db') as db: db.execute('create table t (a)')
    os.rename(d + '/x.db', d + '/y.db'); os.symlink('y.db', d + '/l'); os.listdir(d)
    os.makedirs(d + '/a/b', mode=0o700); shutil.copy(d + '/y.db', d + '/a'); shutil.copytree(d + '/a', d + '/c')
    shutil.copy2(d + '/y.db', d + '/a/b'); shutil.move(d + '/c', d + '/e'); open(d + '/y.db', 'w').close()
    with tarfile.open(d + '/t.tar', 'w') as tar: tar.add(d + '/a', 'a')
    with tarfile.open(d + '/t.tar') as tar: tar.extractall(d + '/f')
    with open(d + '/t.tar', 'r+b') as file:
        file.truncate(512); mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE).close()
mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
a, b = socket.socketpair(); a.sendall(b'x'); assert b.recv(1) == b'x'
signal.signal(signal.SIGUSR1, lambda *_: None); os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(0); os.urandom(4); os.cpu_count(); os.isatty(1)
"""
    assert host.run(code)["status"] == "ok"


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.fork()",
        "import os; os.system('true') and 1/0",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import pty; pty.fork()",
        "import os; os.setuid(0) or os.getuid() and 1/0",
    ],
)
def test_no_other_process_comes_to_be(host: Host, code: str) -> None:
    """Neither fork nor exec, by whatever name; the kernel stays the zygote's only child and has none."""
    reply = host.run(code)
    assert reply["status"] == "raised", reply
    (zygote,) = children(host.process.pid)
    (kernel,) = children(zygote)
    assert children(kernel) == []


def test_files_of_the_machine_do_not_exist(host: Host, tmp_path: Path) -> None:
    """Nothing can be read or written outside the installation, the session directory and the own one."""
    bait = tmp_path / "bait"
    bait.write_text("secret")
    bait.chmod(0o666)
    for path in (
        str(bait),
        "/etc/passwd",
        "/proc/1/environ",
        "/proc/self/mem",
        "/proc/kallsyms",
        "/sys/kernel",
        "/etc/hostname",
    ):
        assert host.evaluate(f"error_of(lambda: os.open({path!r}, os.O_RDONLY))") in (13, 2), path
    for path in (
        str(bait),
        str(tmp_path / "new"),
        "/etc/new",
        str(host.directory / "new"),
        os.path.dirname(os.__file__) + "/new",
    ):
        assert host.evaluate(f"error_of(lambda: os.open({path!r}, os.O_WRONLY | os.O_CREAT))") in (13, 2, 30), path
    assert bait.read_text() == "secret"
    assert host.evaluate(f"error_of(lambda: os.link({str(bait)!r}, 'stolen'))") in (1, 13, 2, 18)
    assert host.evaluate(f"error_of(lambda: (os.symlink({str(bait)!r}, 'way'), open('way')))") in (13, 2)
    host.run("os.unlink('way')")


def test_the_session_directory_cannot_be_changed(host: Host) -> None:
    """Contexts and sockets can be seen, not replaced."""
    file = host.place("ctx", b"original")
    path = str(host.directory / "contexts" / file["file"])
    assert host.evaluate(f"open({path!r}).read()") == "original"
    for attack in (
        f"os.unlink({path!r})",
        f"os.chmod({path!r}, 0o666)",
        f"os.rename({path!r}, 'x')",
        f"os.truncate({path!r}, 0)",
    ):
        assert host.run(attack)["status"] == "raised", attack
    assert host.evaluate(f"error_of(lambda: open({path!r}, 'w'))") == 13
    assert (host.directory / "contexts" / "ctx").read_bytes() == b"original"


@pytest.mark.parametrize(
    "attack",
    [
        "os.chmod({0!r}, 0o777)",
        "os.chmod(os.path.dirname({0!r}), 0o777)",
        "os.fchmod(os.open(os.path.dirname({0!r}), os.O_PATH), 0o777)",
        "os.fchmod(os.open({1!r}, os.O_RDONLY), 0o666)",
        "os.chmod({1!r}, 0)",
        "os.utime({0!r}, (1, 1))",
        "os.utime(os.open({1!r}, os.O_RDONLY), (1, 1))",
        "os.chown({0!r}, os.getuid(), os.getgid())",
        "os.lchown({0!r}, -1, -1)",
        "os.truncate({0!r}, 0)",
        "os.setxattr({0!r}, 'user.planted', b'x')",
        "os.setxattr(os.open({1!r}, os.O_RDONLY), 'user.planted', b'x')",
    ],
)
def test_attributes_of_files_stay_as_they_are(host: Host, tmp_path: Path, attack: str) -> None:
    """Landlock governs no modes, owners, times and extended attributes; the filter refuses to change any."""
    bait = tmp_path / "bait"
    bait.write_text("secret")
    host.place("blob", b"original")
    blob = host.directory / "contexts" / "blob"

    def attributes() -> list[tuple[int, ...]]:
        found = [path.stat() for path in (bait, bait.parent, blob)]
        return [(stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in found]

    before = attributes()
    assert host.evaluate(f"error_of(lambda: {attack.format(str(bait), str(blob))})") in (EPERM, 13), attack
    assert attributes() == before


@pytest.mark.parametrize("who", ["bait", "zygote"])
def test_no_descriptor_sends_a_signal(host: Host, who: str) -> None:
    """Linux does not signal another process for a kernel either, by way of a descriptor that has an owner."""
    with subprocess.Popen(["sleep", "60"]) as bait:
        pid = bait.pid if who == "bait" else children(host.process.pid)[0]
        code = (
            "import fcntl\nnear, far = socket.socketpair()\n"
            f"refused = [error_of(lambda: fcntl.fcntl(near, fcntl.F_SETOWN, {pid})),\n"
            "    error_of(lambda: fcntl.fcntl(near, 10, signal.SIGSTOP)),\n"
            "    error_of(lambda: fcntl.fcntl(near, fcntl.F_SETFL, os.O_ASYNC)),\n"
            "    error_of(lambda: fcntl.ioctl(near, 0x8901, bytes(4))),\n"
            "    error_of(lambda: fcntl.fcntl(os.open('.', os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE)),\n"
            "    error_of(lambda: fcntl.fcntl(os.open('lease', os.O_CREAT), fcntl.F_SETLEASE, fcntl.F_RDLCK))]\n"
            "far.send(b'x')"
        )
        assert host.run(code)["status"] == "ok"
        assert host.evaluate("refused") == [EPERM, EPERM, EPERM, 25, EPERM, EPERM]
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("S", "R")
        bait.kill()


@pytest.mark.parametrize(
    "attack",
    [
        "mmap.mmap(-1, 256 << 20)",
        "mmap.mmap(os.open('/dev/zero', os.O_RDONLY), 256 << 20, prot=mmap.PROT_READ)",
        "mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100)",
        "mmap.mmap(-1, 256 << 20, flags=3 | mmap.MAP_ANONYMOUS)",
        "mmap.mmap(-1, 256 << 20, flags=8 | mmap.MAP_ANONYMOUS)",
        "fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)",
        "socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)",
        "socket.send_fds(socket.socketpair()[0], [b'x'], os.pipe())",
    ],
)
def test_no_memory_escapes_its_limit(host: Host, attack: str) -> None:
    """Shared mappings, stacks, larger pipes and sockets, and descriptors in flight are memory that nobody counts."""
    host.run("import fcntl, mmap, socket, threading")
    assert host.evaluate(f"error_of(lambda: {attack})") == EPERM


def test_the_stack_cannot_be_raised(host: Host) -> None:
    """What the main stack may grow to is no more than usual, for good."""
    soft, hard = host.evaluate("__import__('resource').getrlimit(__import__('resource').RLIMIT_STACK)")
    assert 0 < soft == hard <= 8 << 20


@pytest.mark.parametrize("version", [0, 1, 3])
def test_an_old_landlock_is_refused(version: int) -> None:
    """Where files can be truncated by opening them, or TCP is open, there is no such level; the refusal says which."""
    with pytest.raises(OSError, match=r"expected Landlock of ABI 4 or newer \(Linux 6\.7\), found"):
        landlock.check_version(version)
    landlock.check_version(4)


def test_the_hosts_sockets_cannot_be_dialled(host: Host) -> None:
    """Code in a cell cannot pose as the supervisor, nor reach an abstract socket of the machine."""
    with socket.socket(socket.AF_UNIX) as bait:
        bait.bind("\0sandbox-image-bait")
        bait.listen(1)
        for address in (str(host.directory / "sandbox.sock"), "\0sandbox-image-bait"):
            assert host.evaluate(f"error_of(lambda: socket.socket(socket.AF_UNIX).connect({address!r}))") == EPERM
    pair = "socket.socketpair()[0]"
    assert host.evaluate(f"error_of(lambda: {pair}.connect({str(host.directory / 'sandbox.sock')!r}))") == EPERM
    assert host.evaluate(f"error_of(lambda: {pair}.bind('mine'))") == EPERM


@pytest.mark.parametrize("who", ["os.getppid()", "supervisor"])
def test_the_other_processes_cannot_be_touched(host: Host, who: str) -> None:
    """Neither zygote nor supervisor can be signalled, read, written or throttled, though the uid is the same."""
    who = str(host.process.pid) if who == "supervisor" else who
    assert host.evaluate(f"error_of(lambda: os.kill({who}, 0))") == EPERM
    assert host.evaluate(f"error_of(lambda: open(f'/proc/{{{who}}}/mem', 'r+b'))") in (13, 2)
    assert host.evaluate(f"error_of(lambda: os.sched_setaffinity({who}, [0]))") == EPERM
    assert host.evaluate(f"error_of(lambda: os.setpriority(os.PRIO_PROCESS, {who}, 19))") == EPERM
    assert host.evaluate(f"error_of(lambda: __import__('resource').prlimit({who}, 7, (4, 4)))") == EPERM


def test_limits_cannot_be_raised(host: Host) -> None:
    """The memory limit, once set, holds: neither soft above hard nor hard itself."""
    code = "import resource as r\nhard = r.getrlimit(r.RLIMIT_DATA)[1]\nr.setrlimit(r.RLIMIT_DATA, (hard, hard))"
    assert host.run(code)["status"] == "ok"
    if host.evaluate("os.getuid()") != 0:  # root in these tests keeps the right; under a provider nobody is root
        assert host.run("r.setrlimit(r.RLIMIT_DATA, (hard, hard + 1))")["raised"]["type_name"] == "ValueError"


def test_what_is_in_force_is_reported_and_true(host: Host) -> None:
    """The claim names what holds, and Linux agrees."""
    (zygote,) = children(host.process.pid)
    (kernel,) = children(zygote)
    for pid, filters in ((host.process.pid, 2), (zygote, 1), (kernel, 2)):
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert int(status.get("Seccomp_filters", filters)) == filters
        if host.evaluate("os.getuid()") == UID:
            assert status["Uid"].split() == [str(UID)] * 4
            assert [status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")] == ["0" * 16] * 5
            assert status["Groups"].strip() == ""
        assert Path(f"/proc/{pid}/mem").stat().st_uid == 0  # non-dumpable: its files belong to root
    assert int(Path(f"/proc/{kernel}/oom_score_adj").read_text()) >= 500


def test_the_interpreter_is_bare(host: Host) -> None:
    """No site packages, no environment of the host, nothing importable beside the standard library and the image."""
    assert (
        host.evaluate(
            "[m for m in ('pytest', 'httpx', 'service', 'tests') if __import__('importlib.util').util.find_spec(m)]"
        )
        == []
    )
    assert host.evaluate("sorted(os.environ)") == ["HOME", "LANG", "PYTHONUTF8", "TMPDIR"]


@pytest.mark.needs_root
@pytest.mark.needs_readable_python
def test_the_confinement_of_the_own_uid_is_named() -> None:
    """A sandbox started as root says that it is not root any more."""
    with start_host(uid=UID) as started:
        confinement = started.claim()["confinement"]
    assert {"uid", "no-capabilities", "no-new-privs", "seccomp", "seccomp:kernel"} <= set(confinement)
    assert any(word.startswith("landlock:") for word in confinement)


@pytest.mark.needs_root
@pytest.mark.needs_readable_python
def test_threads_are_bounded_where_the_uid_is_shared() -> None:
    """Where the limit counts the processes of others with the same uid, there is one all the same, and not below
    what they have."""
    user = ("setpriv", "--reuid", str(UID + 1), "--regid", str(UID + 1), "--clear-groups")
    with (
        subprocess.Popen([*user, "sleep", "60"]) as bait,
        start_host(started_by=user, python=python_for(UID + 1)) as host,
    ):
        host.claim(processes=16)
        soft, hard = host.evaluate("__import__('resource').getrlimit(__import__('resource').RLIMIT_NPROC)")
        assert soft == hard == 16 + 96 + 4096 + 2  # the bait and the supervisor
        host.run("from concurrent.futures import ThreadPoolExecutor\nlist(ThreadPoolExecutor(4).map(str, range(9)))")
        bait.kill()


def test_without_confinement_it_says_so() -> None:
    """`--unsafe-unconfined` works, and the claim says that nothing is in force."""
    with start_host("--unsafe-unconfined", landlock=False) as started:
        assert "none" in started.claim()["confinement"]
        assert started.evaluate("__import__('subprocess').run(['/bin/true']).returncode") == 0


def test_a_kernel_inherits_its_own_descriptors_only() -> None:
    """Beside the standard streams a kernel has its two sockets and the two pipes it prints to."""
    with start_host() as started:
        started.claim()
        started.run(PRELUDE)
        assert started.evaluate("len([fd for fd in range(3, 256) if not error_of(lambda: os.fstat(fd))])") == 4

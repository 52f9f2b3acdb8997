"""What every provider must pass: one contract, run against real sandboxes. Subclass and provide `provider`.

Hostile code runs inside the sandbox only, against bait that the test planted.
"""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from sandbox_image.protocol import Binding, BindingKind, BoundFile, TextImage
from service.ids import CellId
from service.loop.values import CellResult, CellStatus
from service.sandboxes.pool import Pool, open_pool
from service.sandboxes.port import Provider, SandboxGone, Template
from service.sandboxes.processes import descendants, identify
from service.sandboxes.sandbox import Sandbox
from service.sandboxes.values import Beginning, BindRefused, ValueMissing, ValueTooLarge, ValueUnserialisable

SMALL = Template(memory_bytes=512 << 20, tmp_bytes=32 << 20, processes=32, file_bytes=16 << 20)


async def run(sandbox: Sandbox, code: str, *, number: int = 0, active_limit_s: float = 20.0) -> CellResult:
    """Run a cell of its own."""
    run.count += 1  # type: ignore[attr-defined]
    cell_id = CellId(f"run_1.t{number or run.count}.b0")  # type: ignore[attr-defined]
    return await sandbox.run_cell(cell_id, code, active_limit_s=active_limit_s, wall_limit_s=40, grace_s=0.5)


run.count = 1000  # type: ignore[attr-defined]


async def printed(sandbox: Sandbox, code: str) -> str:
    result = await run(sandbox, code)
    assert result.status is CellStatus.OK, result
    return result.stdout.head


async def fails_with(sandbox: Sandbox, code: str) -> str:
    """The type of what the code raises."""
    result = await run(sandbox, code)
    assert result.raised is not None, f"worked: {code}: {result}"
    return result.raised.type_name


async def read(sandbox: Sandbox, name: str, *, limit_bytes: int = 1000) -> bytes:
    async with sandbox.read_value(name, as_="text", limit_bytes=limit_bytes) as stream:
        return b"".join([chunk async for chunk in stream.chunks])


def blob(data: Path, name: str, content: bytes) -> tuple[BoundFile, Path]:
    """A stored payload."""
    path = data / name
    path.write_bytes(content)
    path.chmod(0o444)
    return BoundFile(part=name, file=name, size_bytes=len(content)), path


async def bind(sandbox: Sandbox, data: Path, name: str, kind: BindingKind, *contents: bytes) -> None:
    blobs = [blob(data, f"{name}.{number}", content) for number, content in enumerate(contents)]
    binding = Binding(name=name, kind=kind, files=[file for file, _ in blobs])
    await sandbox.bind([binding], {file.file: path for file, path in blobs})


async def bind_mapped(sandbox: Sandbox, data: Path, name: str, size_bytes: int) -> Path:
    """Bind a text of ASCII that takes next to no disk; the file that stands for it."""
    path = data / name
    if not path.exists():
        with path.open("wb") as file:
            file.write(b"begin")
            file.seek(size_bytes - 3)
            file.write(b"end")
        path.chmod(0o444)
    image = TextImage(file=name, encoding="ascii", length=size_bytes)
    bound = BoundFile(part=name, file=name, size_bytes=size_bytes, image=image)
    await sandbox.bind([Binding(name=name, kind=BindingKind.TEXT, files=[bound])], {name: path})
    return path


_PEAK_KIB = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


@pytest.mark.anyio
class SandboxContract:
    """Run for every provider and level."""

    refused_of_supervisor: tuple[str, ...] = ("open('/proc/1/environ')", "open('/proc/1/mem', 'rb')")
    """What a cell cannot do to the supervisor through /proc."""

    @pytest.fixture
    def provider(self) -> Provider:
        raise NotImplementedError

    @pytest.fixture
    async def pool(self, provider: Provider, data: Path) -> AsyncIterator[Pool]:
        async with open_pool(
            provider, sessions=data / "sessions", gateway_socket=None, slots=3, warm=0, template=SMALL
        ) as pool:
            yield pool

    @pytest.fixture
    async def sandbox(self, pool: Pool) -> AsyncIterator[Sandbox]:
        sandbox = await pool.acquire()
        await sandbox.claim(generation=1, grant="grant-of-a-test", random_seed=1)
        yield sandbox
        await pool.release(sandbox)

    async def test_contexts_arrive_as_they_are(self, sandbox: Sandbox, data: Path) -> None:
        """Texts are byte-exact, JSON is its value, lines a list, named texts a dict in order, code is executed."""
        text = "crlf\r\nlf\nñ\u2028€\U0001f600\0end"
        await bind(sandbox, data, "text", BindingKind.TEXT, text.encode())
        await bind(sandbox, data, "tree", BindingKind.JSON, b'{"a": [1, null, "x"]}')
        await bind(sandbox, data, "lines", BindingKind.JSON_LINES, b'{"n": 1}\n"two"\n')
        await bind(sandbox, data, "named", BindingKind.NAMED_TEXTS, b"first\r\n", b"second")
        await sandbox.bind([Binding(name="tool", kind=BindingKind.CODE, code="def double(n): return 2 * n")], {})
        found = await printed(
            sandbox,
            "import json; print(json.dumps([text, type(text).__name__, tree, lines, list(named.items()), double(4)]))",
        )
        assert json.loads(found) == [
            text,
            "str",
            {"a": [1, None, "x"]},
            [{"n": 1}, "two"],
            [["named.0", "first\r\n"], ["named.1", "second"]],
            8,
        ]

    async def test_what_is_in_force_is_told_to_people(self, provider: Provider) -> None:
        """The isolation's details say what the inside put in force, and how large texts arrive."""
        (line,) = [line for line in (await provider.isolation()).details if line.startswith("in force inside: ")]
        assert {"seccomp", "no-new-privs", "texts:mapped"} <= set(line.partition(": ")[2].split(", "))

    async def test_a_large_text_is_there_without_a_copy(self, sandbox: Sandbox, data: Path) -> None:
        """A text larger than the kernel's memory is a `str` there, costs none of it, and can be bound again."""
        assert "texts:mapped" in sandbox.confinement
        size_bytes = 600_000_000
        assert size_bytes > SMALL.memory_bytes
        await bind_mapped(sandbox, data, "context", size_bytes)
        before = int(await printed(sandbox, _PEAK_KIB))
        shown = "print(len(context), context[:5], context[-3:], type(context) is str, context[:] is context)"
        assert await printed(sandbox, shown) == f"{size_bytes} begin end True True\n"
        assert int(await printed(sandbox, _PEAK_KIB)) - before < 10 << 10
        await run(sandbox, f"mine = bytearray({SMALL.memory_bytes // 2})")
        assert await printed(sandbox, "print(context.find('end'), len(mine))") == (
            f"{size_bytes - 3} {SMALL.memory_bytes // 2}\n"
        )
        await bind_mapped(sandbox, data, "again", size_bytes)
        assert await printed(sandbox, "print(again == context, len(again))") == f"True {size_bytes}\n"

    async def test_a_mapped_text_cannot_be_written_to(self, sandbox: Sandbox, data: Path) -> None:
        """Writing to the mapping ends the kernel; made writable, it is a private copy; the file stays as it was."""
        find = (
            "import ctypes\nat = ctypes.c_ssize_t.from_address(id(context) + str.__basicsize__ - 8).value\n"
            "assert ctypes.string_at(at, 5) == b'begin'\n"
        )
        path = await bind_mapped(sandbox, data, "context", 100_000)
        stored = path.read_bytes()
        result = await run(sandbox, find + "ctypes.memset(at, 120, 5)")
        assert (result.status, result.namespace_lost) == (CellStatus.KILLED, True)
        await bind_mapped(sandbox, data, "context", 100_000)
        writable = "ctypes.CDLL(None).mprotect(ctypes.c_void_p(at), 4096, 3)\nctypes.memset(at, 120, 5)\n"
        result = await run(sandbox, find + writable + "print(context[:5])")
        assert result.status is CellStatus.KILLED or result.stdout.head == "xxxxx\n"
        assert path.read_bytes() == stored

    async def test_what_cannot_be_bound_is_refused_and_nothing_else_is_lost(self, sandbox: Sandbox, data: Path) -> None:
        """A context that is not what its kind says, and a tool that raises, are refused; the sandbox lives."""
        await run(sandbox, "kept = 1")
        with pytest.raises(BindRefused):
            await bind(sandbox, data, "broken", BindingKind.JSON, b'{"a": ')
        with pytest.raises(BindRefused):
            await sandbox.bind([Binding(name="t", kind=BindingKind.CODE, code="1/0")], {})
        assert await printed(sandbox, "kept") == "1\n"

    async def test_a_namespace_can_begin_with_the_claim(self, pool: Pool, data: Path) -> None:
        """What comes with the claim is bound in the same exchange; where it cannot be, the claim still stands."""
        tool = Binding(name="double", kind=BindingKind.CODE, code="def double(n): return 2 * n")
        broken = Binding(name="broken", kind=BindingKind.CODE, code="1/0")
        sandbox, other = await pool.acquire(), await pool.acquire()
        variables = await sandbox.claim(
            generation=1, grant="g", random_seed=1, beginning=Beginning(bindings=[tool], files={})
        )
        assert [variable.name for variable in variables] == ["double"]
        assert await printed(sandbox, "double(4)") == "8\n"
        with pytest.raises(BindRefused, match="ZeroDivisionError"):
            await other.claim(generation=1, grant="g", random_seed=1, beginning=Beginning(bindings=[broken], files={}))
        assert await printed(other, "6 * 7") == "42\n"
        await pool.release(sandbox)
        await pool.release(other)

    async def test_variables_live_from_cell_to_cell(self, sandbox: Sandbox) -> None:
        """What a cell bound is there in the next, also what it bound before it raised."""
        first = await run(sandbox, "x = [1]\ny = 2\nraise ValueError('no')")
        assert (first.status, first.variables) == (CellStatus.RAISED, ("x", "y"))
        assert first.raised is not None
        assert (first.raised.type_name, first.raised.message) == ("ValueError", "no")
        assert await printed(sandbox, "x.append(y); x") == "[1, 2]\n"
        assert {"x", "y"} <= {variable.name for variable in await sandbox.variables()}

    async def test_a_retried_cell_runs_once(self, sandbox: Sandbox) -> None:
        """The same id again returns the first result and has no second effect."""
        await run(sandbox, "n = 0")
        results = [await run(sandbox, "n += 1; print(n)", number=7) for _ in range(3)]
        assert [result.stdout.head for result in results] == ["1\n"] * 3
        assert await printed(sandbox, "n") == "1\n"

    async def test_an_answer_of_a_hundred_megabytes_is_read_whole(self, sandbox: Sandbox) -> None:
        """The answer's size and digest are announced, and the stream that follows is exactly that."""
        size_bytes = 100_000_000
        result = await run(sandbox, f"answer['content'] = 'x' * {size_bytes}; answer['ready'] = True")
        assert result.answer is not None
        assert (result.answer.ready, result.answer.size_bytes) == (True, size_bytes)
        seen = hashlib.sha256()
        async with sandbox.read_value("answer", as_="text", limit_bytes=size_bytes) as stream:
            async for chunk in stream.chunks:
                seen.update(chunk)
        assert stream.sha256 == result.answer.sha256 == seen.hexdigest()

    async def test_an_unfinished_answer_of_any_size_is_told(self, sandbox: Sandbox) -> None:
        """A large answer that is not ready is announced without its digest, and can be read."""
        result = await run(sandbox, "answer['content'] = 'x' * 5_000_000")
        assert result.answer is not None
        assert not result.answer.ready
        assert await read(sandbox, "answer", limit_bytes=5_000_000) == b"x" * 5_000_000

    async def test_values_that_cannot_be_read_are_told_apart(self, sandbox: Sandbox) -> None:
        """Missing, too large and unserialisable are three errors, and none of them ends the sandbox."""
        await run(sandbox, "big = 'x' * 2000; cycle = []; cycle.append(cycle)")
        with pytest.raises(ValueMissing):
            await read(sandbox, "nothing")
        with pytest.raises(ValueTooLarge):
            await read(sandbox, "big")
        with pytest.raises(ValueUnserialisable):
            async with sandbox.read_value("cycle", as_="json", limit_bytes=1000):
                pass
        assert await read(sandbox, "big", limit_bytes=2000) == b"x" * 2000

    async def test_a_value_left_half_read_costs_nothing(self, sandbox: Sandbox) -> None:
        """A consumer that stops early loses no variable."""
        await run(sandbox, "big = 'x' * 5_000_000")
        async with sandbox.read_value("big", as_="text", limit_bytes=5_000_000) as stream:
            await anext(stream.chunks)
        assert await printed(sandbox, "len(big)") == "5000000\n"

    async def test_host_calls_reach_the_gateway_with_the_grant(self, provider: Provider, data: Path) -> None:
        """A call of the namespace arrives at the gateway's socket with the latest grant, and its value in the cell."""
        seen: list[bytes] = []

        async def answer(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                request = b""
                while b"prompts" not in request:
                    request += await stream.receive()
                seen.append(request)
                body = b'{"items": [{"ok": true, "value": "four", "kind": "", "message": ""}]}'
                await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

        gateway_socket = data / "gateway.sock"
        async with anyio.create_task_group() as tasks:
            listener = await anyio.create_unix_listener(str(gateway_socket), mode=0o666)
            tasks.start_soon(listener.serve, answer)
            async with open_pool(
                provider, sessions=data / "sessions", gateway_socket=gateway_socket, slots=1, warm=0, template=SMALL
            ) as pool:
                sandbox = await pool.acquire()
                await sandbox.claim(generation=1, grant="first-grant", random_seed=1)
                await sandbox.replace_grant("second-grant")
                assert await printed(sandbox, "print(llm_query('two and two'))") == "four\n"
            tasks.cancel_scope.cancel()
        await listener.aclose()
        assert b"Bearer second-grant" in seen[0]
        assert b"first-grant" not in seen[0]

    async def test_an_endless_loop_is_interrupted_and_keeps_its_variables(self, sandbox: Sandbox) -> None:
        """Past its active limit a cell gets a KeyboardInterrupt; what it had bound is still there."""
        result = await run(sandbox, "n = 5\nwhile True: pass", active_limit_s=0.3)
        assert (result.status, result.namespace_lost) == (CellStatus.TIMED_OUT, False)
        assert await printed(sandbox, "n") == "5\n"

    async def test_a_cell_that_ignores_interrupts_loses_its_kernel(self, sandbox: Sandbox) -> None:
        """After the grace the kernel is killed, the loss is told, and the next cell runs in a fresh one."""
        code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
        result = await run(sandbox, code, active_limit_s=0.3)
        assert result.status in (CellStatus.TIMED_OUT, CellStatus.KILLED)
        assert result.namespace_lost
        assert await printed(sandbox, "print('alive')") == "alive\n"

    async def test_interrupt_reaches_the_running_cell_only(self, sandbox: Sandbox) -> None:
        """An interrupt for another cell does nothing, one for the running cell ends it."""
        cell_id = CellId("run_1.t900.b0")
        results: list[CellResult] = []

        async def spin() -> None:
            results.append(
                await sandbox.run_cell(cell_id, "while True: pass", active_limit_s=30, wall_limit_s=60, grace_s=1)
            )

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(spin)
            while (await sandbox.stats()).running_cell != cell_id:
                await anyio.lowlevel.checkpoint()
            await sandbox.interrupt(CellId("run_1.t901.b0"))
            assert (await sandbox.stats()).running_cell == cell_id
            await sandbox.interrupt(cell_id)
        assert results[0].raised is not None
        assert results[0].raised.type_name == "KeyboardInterrupt"

    async def test_a_cancelled_caller_stops_its_cell(self, sandbox: Sandbox) -> None:
        """When the caller is cancelled the cell is interrupted; sandbox and variables live on."""
        await run(sandbox, "kept = 1")
        cell_id = CellId("run_1.t902.b0")

        async def spin() -> None:
            await sandbox.run_cell(cell_id, "while True: pass", active_limit_s=30, wall_limit_s=60, grace_s=1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(spin)
            while (await sandbox.stats()).running_cell != cell_id:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert (await sandbox.stats()).running_cell is None
        assert await printed(sandbox, "kept") == "1\n"

    @pytest.mark.parametrize("death", ["os._exit(0)", "os.kill(os.getpid(), 9)", "ctypes.string_at(0)", "os.abort()"])
    async def test_the_death_of_the_kernel_is_a_result(self, sandbox: Sandbox, death: str) -> None:
        """However the interpreter dies, the cell is `killed`, and the next one runs in a fresh namespace."""
        result = await run(sandbox, f"import ctypes, os\nlost = 1\n{death}")
        assert (result.status, result.namespace_lost) == (CellStatus.KILLED, True)
        assert await fails_with(sandbox, "lost") == "NameError"

    async def test_too_much_memory_is_a_memory_error(self, sandbox: Sandbox) -> None:
        """Past the memory limit Python raises MemoryError, and the namespace is intact."""
        assert await fails_with(sandbox, f"kept = 1\nbig = bytearray({SMALL.memory_bytes})") == "MemoryError"
        assert await printed(sandbox, "kept") == "1\n"

    async def test_output_without_end_is_counted_and_cut(self, sandbox: Sandbox) -> None:
        """Only head and tail of a flood come back, with its true size."""
        result = await run(sandbox, "print('a' * 5_000_000 + 'z')")
        assert result.stdout.size_bytes == 5_000_002
        assert result.stdout.head.startswith("aaa")
        assert result.stdout.tail.endswith("z\n")
        assert len(result.stdout.head) + len(result.stdout.tail) < 600_000

    async def test_strange_text_does_not_break_the_wire(self, sandbox: Sandbox) -> None:
        """Surrogates, NUL, invalid UTF-8 and control characters in output, errors and names are all just text."""
        code = (
            "import os\nos.write(1, b'\\xff\\x00\\x1b[31m')\nglobals()['\\ud800'] = 1\nraise ValueError('\\ud800\\0')"
        )
        result = await run(sandbox, code)
        assert result.status is CellStatus.RAISED
        assert await printed(sandbox, "print('alive')") == "alive\n"

    async def test_restart_empties_the_namespace(self, sandbox: Sandbox) -> None:
        """After a restart there is a fresh kernel."""
        await run(sandbox, "x = 1")
        await sandbox.restart()
        assert await fails_with(sandbox, "x") == "NameError"

    async def test_starting_over_empties_what_cells_wrote(self, sandbox: Sandbox) -> None:
        """A fresh kernel finds no variable and no file; one that cells made hard to remove costs the sandbox."""
        await run(sandbox, "import os\nos.makedirs('a/b/c')\nopen('a/b/c/f', 'x')\nos.symlink('a', 'to')")
        await run(sandbox, "open('/dev/shm/f', 'x')")  # closed at some levels
        await sandbox.start_over()
        assert await fails_with(sandbox, "os") == "NameError"
        assert await printed(sandbox, "import os; print(os.listdir(), os.path.exists('/dev/shm/f'))") == "[] False\n"
        await run(sandbox, "os.mkdir('closed', 0o300); open('closed/f', 'x')")
        with pytest.raises(SandboxGone):
            await sandbox.start_over()

    async def test_files_of_the_host_are_out_of_reach(self, sandbox: Sandbox, data: Path) -> None:
        """A file that everybody on the host may read cannot be read, listed or linked to from a cell."""
        bait = data / "bait"
        bait.write_text("secret")
        for attempt in (
            f"open({str(bait)!r})",
            f"import os; os.listdir({str(data)!r})",
            f"import os; os.link({str(bait)!r}, '/tmp/x')",
            f"import os; os.symlink({str(bait)!r}, 'x'); open('x')",
            "open('/etc/passwd')",
            *self.refused_of_supervisor,
        ):
            assert await fails_with(sandbox, attempt) in ("PermissionError", "FileNotFoundError", "OSError"), attempt

    async def test_there_is_no_network(self, sandbox: Sandbox) -> None:
        """A cell cannot open a socket of any kind that leads out, nor reach a listener that the test started."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener:
            for family, kind in (("AF_INET", "SOCK_STREAM"), ("AF_INET6", "SOCK_DGRAM"), ("AF_UNIX", "SOCK_STREAM")):
                assert await fails_with(sandbox, f"import socket; socket.socket(socket.{family}, socket.{kind})") in (
                    "PermissionError",
                    "OSError",
                )
            attempt = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
            assert await fails_with(sandbox, attempt) in ("PermissionError", "OSError")

    async def test_the_session_directory_is_read_only(self, sandbox: Sandbox, data: Path) -> None:
        """A cell can read its context's file and neither change, replace, remove nor add to what is beside it."""
        await bind(sandbox, data, "context", BindingKind.TEXT, b"as it was")
        assert await printed(sandbox, "print(context)") == "as it was\n"
        places = ["/rlm/session", str(sandbox.directory)]
        find = "import os\nfile = next(p for p in (p + '/contexts/context.0' for p in PLACES) if os.path.exists(p))\n"
        find = f"PLACES = {places}\n" + find
        for attempt in (
            "open(file, 'w')",
            "open(file, 'r+')",
            "os.remove(file)",
            "os.rename(file, file + 'x')",
            "os.chmod(file, 0o777)",
            "open(file + '.new', 'w')",
            "open(os.path.join(os.path.dirname(os.path.dirname(file)), 'planted'), 'w')",
        ):
            assert await fails_with(sandbox, find + attempt) in ("PermissionError", "OSError"), attempt
        assert (data / "context.0").read_bytes() == b"as it was"
        assert (data / "context.0").stat().st_mode & 0o777 == 0o444
        assert sorted(path.name for path in sandbox.directory.iterdir()) == ["contexts", "sandbox.sock"]

    async def test_a_cell_can_write_to_its_own_tmp(self, sandbox: Sandbox) -> None:
        """There is one place for files, and they last from cell to cell."""
        await run(sandbox, "import tempfile, os\nplace = tempfile.mkdtemp()\nopen(place + '/f', 'w').write('here')")
        assert await printed(sandbox, "print(open(place + '/f').read())") == "here\n"

    async def test_two_sandboxes_know_nothing_of_each_other(self, sandbox: Sandbox, pool: Pool) -> None:
        """One sandbox sees no file of another, and signals none of its processes."""
        other = await pool.acquire()
        await other.claim(generation=1, grant="another-grant", random_seed=1)
        path = (await printed(other, "import tempfile; f = tempfile.NamedTemporaryFile(); print(f.name)")).strip()
        for attempt in (f"open({path!r})", f"import os; os.listdir({str(other.directory)!r})"):
            assert await fails_with(sandbox, attempt) in ("PermissionError", "FileNotFoundError")
        await run(
            sandbox,
            f"import os\nfor pid in {[*self.pids_of(other)]}:\n    try: os.kill(pid, 9)\n    except OSError: pass",
        )
        assert await printed(other, "print('alive')") == "alive\n"
        await pool.release(other)

    async def test_the_kernel_cannot_hurt_its_supervisor(self, sandbox: Sandbox) -> None:
        """Signals to the first process and to its own parent leave all as it was, and the sandbox able to report."""
        lives = (await sandbox.stats()).kernel_lives
        await run(sandbox, "kept = 'kept'")
        await run(sandbox, "import os, signal\ntry: os.kill(1, signal.SIGINT)\nexcept OSError: pass")
        await run(sandbox, "import os, signal\ntry: os.kill(os.getppid(), signal.SIGTERM)\nexcept OSError: pass")
        assert await printed(sandbox, "print(kept)") == "kept\n"
        assert (await sandbox.stats()).kernel_lives == lives

    async def test_what_it_used_is_measured_from_outside(self, sandbox: Sandbox) -> None:
        """CPU time and the most memory are told by the provider, also after the memory is given back, and stay known
        when it has ended."""
        await run(sandbox, "import time\nwhile time.process_time() < 0.3: pass\nbig = bytearray(64 << 20); del big")
        measured = await sandbox.measure()
        assert measured is not None
        assert measured.cpu_s >= 0.25  # clock ticks round
        assert 64 << 20 <= measured.memory_peak_bytes <= 2 * SMALL.memory_bytes
        await sandbox.kill()
        assert await sandbox.measure() is None
        assert sandbox.seen == measured

    async def test_a_kill_leaves_no_process_and_no_file(self, sandbox: Sandbox, data: Path) -> None:
        """After a kill nothing of the sandbox runs, daemons included, and its directory is gone."""
        daemon = (
            "import os, time\nif os.fork() == 0:\n    if os.fork() == 0:\n        time.sleep(1000)\n    os._exit(0)"
        )
        await run(sandbox, daemon)
        before = self.pids_of(sandbox)
        assert len(before) >= 3
        await sandbox.kill()
        assert not [pid for pid in before if identify(pid) is not None]
        assert list((data / "sessions").iterdir()) == []
        with pytest.raises(SandboxGone):
            await sandbox.variables()

    async def test_a_deep_tree_of_files_goes_with_its_sandbox(self, sandbox: Sandbox, data: Path) -> None:
        """Thousands of nested directories, a closed one among them, do not survive the sandbox."""
        code = (
            "import os, tempfile\nos.chdir(tempfile.gettempdir())\n"
            "for n in range(2_000):\n    os.mkdir('d'); os.chdir('d')\n"
            "os.mkdir('closed', 0)\nos.chdir('/')"
        )
        await run(sandbox, code)
        await sandbox.kill()
        assert list((data / "sessions").iterdir()) == []

    def pids_of(self, sandbox: Sandbox) -> set[int]:
        """The processes of this machine that belong to a sandbox; overridden where the host cannot see them."""
        process = sandbox._parts.process
        pids: set[int] = set(getattr(process, "pids", ()))
        return pids | {identity.pid for pid in pids for identity in descendants(pid)}

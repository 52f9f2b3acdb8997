"""What every provider must pass about files and output, beside `contract`: under code that fights for them."""

from pathlib import Path

import anyio
import pytest

from sandbox_image.protocol import CAPTURE_HEAD_BYTES, CAPTURE_TAIL_BYTES, MAX_FILES_LISTED, Binding, BindingKind
from service.errors import BadRequest
from service.ids import CellId
from service.loop.values import CellStatus
from service.sandboxes.files import FileChanged, FileMissing, FileTooLarge, NotAFile
from service.sandboxes.output import OutputOffsets
from service.sandboxes.sandbox import Sandbox
from tests.sandboxes.contract import SMALL, blob, printed, run

HERE = "import os, tempfile; os.chdir(tempfile.gettempdir())\n"
REFUSALS = (NotAFile, FileMissing, FileChanged)
"""What reading may come to while a cell replaces what is read."""


async def put(sandbox: Sandbox, data: Path, path: str, content: bytes) -> None:
    _, stored = blob(data, "uploaded", content)
    try:
        await sandbox.files.put(path, stored, len(content))
    finally:
        stored.unlink()


async def content_of(sandbox: Sandbox, path: str) -> bytes:
    standing = await sandbox.files.look(path)
    return b"".join([piece async for piece in sandbox.files.read(standing, 0, standing.size_bytes)])


@pytest.mark.anyio
class FilesContract:
    """Run for every provider and level, beside `SandboxContract`, whose fixtures it takes."""

    bounds_tmp: bool = True
    """Whether the working directory as a whole has a limit."""

    async def test_files_go_in_and_come_out(self, sandbox: Sandbox, data: Path) -> None:
        """A file that is put is the cell's, byte for byte, and one that a cell writes can be listed and read."""
        content = bytes(range(256)) * 10_000
        await put(sandbox, data, "in/deep/données\n.bin", content)
        code = (
            HERE
            + "d = open('in/deep/données\\n.bin', 'rb').read(); open('out.bin', 'wb').write(d[::-1]); print(len(d))"
        )
        assert await printed(sandbox, code) == f"{len(content)}\n"
        found = await sandbox.files.list()
        shown = {file.path: file.size_bytes for file in found.files}
        assert shown == {"in/deep/données\n.bin": len(content), "out.bin": len(content)}
        assert found.is_complete
        assert await content_of(sandbox, "out.bin") == content[::-1]
        await sandbox.files.delete("out.bin")
        with pytest.raises(FileMissing):
            await sandbox.files.look("out.bin")
        assert [path.name for path in (sandbox.directory / "contexts").iterdir()] == []

    async def test_files_are_there_while_a_cell_runs(self, sandbox: Sandbox, data: Path) -> None:
        """Files go in and out beside a running cell, which sees them at once."""
        code = HERE + "import time\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint(open('go').read())"
        async with anyio.create_task_group() as tasks:

            async def wait_in_cell() -> None:
                assert await printed(sandbox, code) == "now\n"

            tasks.start_soon(wait_in_cell)
            await put(sandbox, data, "other", b"x")
            assert await content_of(sandbox, "other") == b"x"
            await put(sandbox, data, "go", b"now")

    async def test_a_part_of_a_file_is_read_alone(self, sandbox: Sandbox, data: Path) -> None:
        """Any range of a file can be read without the rest."""
        await put(sandbox, data, "f", b"0123456789")
        standing = await sandbox.files.look("f")
        assert [piece async for piece in sandbox.files.read(standing, 3, 7)] == [b"3456"]

    @pytest.mark.parametrize(
        "path",
        ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\0b", "x" * 256, "/".join("a" * 10_000), "\ud800"],
    )
    async def test_a_hostile_name_is_refused(self, sandbox: Sandbox, data: Path, path: str) -> None:
        """What is no plain relative path is the caller's mistake, for every operation, and the sandbox lives."""
        with pytest.raises(BadRequest):
            await sandbox.files.look(path)
        with pytest.raises(BadRequest):
            await put(sandbox, data, path, b"x")
        with pytest.raises(BadRequest):
            await sandbox.files.delete(path)
        assert await printed(sandbox, "print(1)") == "1\n"

    async def test_nothing_but_regular_files_is_opened(self, sandbox: Sandbox, data: Path) -> None:
        """Links, links to directories, pipes and directories are neither read nor written through, at once."""
        code = (
            HERE + "os.mkdir('d'); open('d/f', 'w').write('bait')\n"
            "os.symlink('d/f', 'link'); os.symlink('d', 'linked'); os.symlink('/proc/self', 'self')\n"
            "os.symlink('/', 'root')\n"
            "try: os.mkfifo('pipe')\nexcept OSError: pass"
        )
        assert (await run(sandbox, code)).status is CellStatus.OK
        for path in ("link", "linked/f", "self/environ", "root/etc/hostname", "pipe", "d", "linked", "d/f/x"):
            with pytest.raises((NotAFile, FileMissing)):
                await sandbox.files.look(path)
        for path in ("linked/new", "self/new", "root/tmp/new", "d", "d/f/x"):
            with pytest.raises(NotAFile):
                await put(sandbox, data, path, b"x")
        await put(sandbox, data, "link", b"mine")  # replaces the link itself
        assert await printed(sandbox, "print(open('d/f').read(), open('link').read(), os.listdir('d'))") == (
            "bait mine ['f']\n"
        )
        assert [file.path for file in (await sandbox.files.list()).files] == ["d/f", "link"]

    async def test_a_cell_that_swaps_links_leads_nowhere(self, sandbox: Sandbox, data: Path) -> None:
        """While a cell swaps files, directories and links for one another as fast as it can, what is read is never
        what a link points to, and what is written is never written through one."""
        swapping = """
import contextlib, shutil
os.makedirs('outside/d')
for name in ('outside/f', 'outside/d/f'):
    with open(name, 'w') as file: file.write('bait')
bait = os.getcwd() + '/outside/f'

def good(name):
    with open(name, 'w') as file: file.write('good')

def swap(name, make):
    for way in (lambda n: os.symlink('/proc/self/environ', n), make, lambda n: os.symlink(bait, n), make):
        with contextlib.suppress(OSError):
            way(name + '.new')
            os.rename(name + '.new', name)

os.makedirs('in', exist_ok=True)
while not os.path.exists('stop'):
    swap('in/f', good)
    with contextlib.suppress(OSError):
        os.mkdir('new'); good('new/f'); os.rename('new', 'sub')
    with contextlib.suppress(OSError):
        os.rename('sub', 'gone')
    with contextlib.suppress(OSError):
        os.symlink('outside/d', 'sub')
        os.unlink('sub')
    for left in ('new', 'gone'):
        shutil.rmtree(left, ignore_errors=True)
print(sorted(os.listdir('outside/d')), open('outside/d/f').read(), open('outside/f').read())
"""
        read = rounds = 0

        async def look_and_put() -> None:
            nonlocal read, rounds
            while rounds < 25 or not read:
                rounds += 1
                for path in ("in/f", "sub/f"):
                    try:
                        found = await content_of(sandbox, path)
                    except REFUSALS:
                        continue
                    assert found in (b"", b"good", b"mine")
                    read += 1
                for path in ("sub/mine", "in/mine"):
                    try:
                        await put(sandbox, data, path, b"mine")
                    except REFUSALS:
                        continue
            await put(sandbox, data, "stop", b"")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look_and_put)
            result = await run(sandbox, HERE + swapping, active_limit_s=100.0)
        assert result.stdout.head == "['f'] bait bait\n", result
        assert read

    async def test_a_file_that_changes_while_it_is_read_is_told(self, sandbox: Sandbox, data: Path) -> None:
        """Reading on after the file was written to or replaced ends with `FileChanged`; the sandbox lives."""
        for change in (
            "open('f', 'ab').write(b'x')",
            "open('f', 'r+b').truncate(5)",
            "open('g', 'wb'); os.rename('g', 'f')",
        ):
            await put(sandbox, data, "f", bytes(3 << 20))
            pieces = sandbox.files.read(await sandbox.files.look("f"), 0, 3 << 20)
            assert len(await anext(pieces)) == 1 << 20
            assert (await run(sandbox, HERE + change)).status is CellStatus.OK
            with pytest.raises(FileChanged):
                await anext(pieces)

    async def test_what_does_not_fit_is_refused(self, sandbox: Sandbox, data: Path) -> None:
        """A file over the limit, or one more when the place is full, is refused, and leaves nothing behind."""
        _, stored = blob(data, "large", b"")
        with pytest.raises(FileTooLarge):
            await sandbox.files.put("f", stored, SMALL.file_bytes + 1)
        if not self.bounds_tmp:
            return
        for number in range(SMALL.tmp_bytes // SMALL.file_bytes - 1):
            await put(sandbox, data, f"f{number}", bytes(SMALL.file_bytes))
        await put(sandbox, data, "half", bytes(SMALL.file_bytes // 2))
        with pytest.raises(FileTooLarge):
            await put(sandbox, data, "last", bytes(SMALL.file_bytes))
        assert not [name for name in (await sandbox.files.list()).files if ".rlm-" in name.path]

    async def test_a_list_is_bounded(self, sandbox: Sandbox) -> None:
        """Thousands of files, names that are no text, and endless nesting give a list that says it is not complete."""
        code = (
            HERE + "for n in range(2_000):\n    open(f'f{n}', 'w').close()\n"
            "open(b'\\xff\\xfe', 'w').close()\nfor n in range(100):\n    os.mkdir('d'); os.chdir('d')\nos.chdir('/')"
        )
        assert (await run(sandbox, code)).status is CellStatus.OK
        found = await sandbox.files.list()
        assert len(found.files) == MAX_FILES_LISTED
        assert not found.is_complete

    async def test_output_is_there_while_it_is_printed(self, sandbox: Sandbox, data: Path) -> None:
        """What a running cell has printed can be read before it ends, by stream and from any byte on, and after."""
        cell_id = CellId("run_1.t500.b0")
        assert await sandbox.output(cell_id, OutputOffsets()) is None
        code = (
            HERE + "import sys, time\nprint('one'); print('two', file=sys.stderr)\n"
            "while not os.path.exists('go'): time.sleep(0.01)\nprint('three')"
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run_it, sandbox, cell_id, code)
            after, seen = OutputOffsets(), [b"", b""]
            with anyio.fail_after(60):
                while seen != [b"one\n", b"two\n"]:
                    output = await sandbox.output(cell_id, after)
                    if output is not None:
                        after = output.next_offsets
                        seen = [seen[0] + output.stdout.data, seen[1] + output.stderr.data]
                        assert not output.is_over
            await put(sandbox, data, "go", b"")
        rest = await sandbox.output(cell_id, after)
        assert rest is not None
        assert (rest.stdout.data, rest.stderr.data, rest.is_all) == (b"three\n", b"", True)

    async def test_a_slow_reader_misses_the_middle(self, sandbox: Sandbox) -> None:
        """Of more output than is kept a late reader gets the beginning and the end, and how much is missing."""
        cell_id = CellId("run_1.t501.b0")
        size = 5_000_000
        await self._run_it(sandbox, cell_id, f"print('a' * {size - 1} )")
        after, kept, missed = OutputOffsets(), 0, 0
        while True:
            output = await sandbox.output(cell_id, after)
            assert output is not None
            after = output.next_offsets
            kept, missed = kept + len(output.stdout.data), missed + output.stdout.missed
            if output.is_all:
                break
        assert kept == CAPTURE_HEAD_BYTES + CAPTURE_TAIL_BYTES
        assert kept + missed == size

    async def test_a_written_variable_is_one_like_any_other(self, sandbox: Sandbox, data: Path) -> None:
        """A variable that is bound as one can be changed by cells, for good, and is listed."""
        file, stored = blob(data, "value", b'{"a": [1, 2]}')
        binding = Binding(name="given", kind=BindingKind.JSON, files=[file])
        await sandbox.bind([binding], {file.file: stored}, as_variables=True)
        await run(sandbox, "given['a'].append(3); given = given['a']")
        assert await printed(sandbox, "print(given)") == "[1, 2, 3]\n"
        assert [(v.name, v.type_name, v.size) for v in await sandbox.variables()] == [("given", "list", 3)]

    @staticmethod
    async def _run_it(sandbox: Sandbox, cell_id: CellId, code: str) -> None:
        result = await sandbox.run_cell(cell_id, code, active_limit_s=60, wall_limit_s=100)
        assert result.status is CellStatus.OK, result

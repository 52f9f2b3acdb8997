"""Documents made to do harm end their own reader, in bounded time and memory, with a sentence."""

import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import anyio
import pytest

from sandbox_image.syscalls import this_architecture
from service.contexts.documents import packages
from service.contexts.documents.conversion import ConversionLimits, Document, missing_confinement
from service.contexts.documents.formats import format_of
from service.errors import BadRequest
from tests.contexts import document_files as files

pytestmark = pytest.mark.anyio

LIMITS = ConversionLimits(memory_bytes=512 << 20, cpu_s=20, wall_s=60.0, text_bytes=64 << 20)


async def outcome(path: Path, limits: ConversionLimits = LIMITS) -> str:
    """The refusal; or else the text."""
    document_format = format_of(path)
    assert document_format is not None
    pieces = []
    try:
        async with Document(path=path, format=document_format, limits=limits).opened(path.name) as chunks:
            async for chunk in chunks:
                pieces.append(chunk)
    except BadRequest as error:
        return f"refused: {error}"
    return b"".join(pieces).decode()


PACKAGES = [
    ("a.docx", files.word_document(), "word/document.xml"),
    ("a.pptx", files.presentation(), "ppt/slides/slide1.xml"),
    ("a.xlsx", files.workbook(), "xl/worksheets/sheet1.xml"),
]
WORD = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
SLIDE = '<p:sld xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"><p:cSld><p:spTree>'
SHEET = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'


@pytest.mark.parametrize(("name", "package", "member"), PACKAGES)
async def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, name: str, package: bytes, member: str
) -> None:
    """An Office file that would unpack to gigabytes is told by its own table of contents."""
    size = packages.MOST_UNPACKED_BYTES + 1
    path = files.kept(tmp_path, name, files.claiming(package, member, unpacked_bytes=size))
    assert "unpacks to 2,14" in await outcome(path)


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize(("name", "package", "member"), PACKAGES)
async def test_a_bomb_below_that_bound_ends_by_its_memory(
    tmp_path: Path, name: str, package: bytes, member: str, honest: bool
) -> None:
    """What takes more memory than the reader has ends in a refusal, also where the table of contents lies."""
    content = {
        "a.docx": WORD + "<w:p/>" * 8_000_000,
        "a.pptx": SLIDE + "<p:sp/>" * 8_000_000,
        "a.xlsx": SHEET + '<row r="1"><c r="A1"/><c r="XFD1048576"><v>1</v></c></row>' + "<row/>" * 8_000_000,
    }[name]
    bomb = files.with_member(package, member, content.encode())
    assert len(bomb) < 1 << 20
    if not honest:
        bomb = files.claiming(bomb, member, unpacked_bytes=1000)
    assert (await outcome(files.kept(tmp_path, name, bomb))).startswith(f"refused: {name}: the ")


async def test_too_much_memory_is_told(tmp_path: Path) -> None:
    """A document whose parts take more memory than its reader has is refused as just that."""
    path = files.kept(tmp_path, "a.ipynb", b"[" + b"[]," * 10_000_000 + b"0]")
    assert await outcome(path) == "refused: a.ipynb: the notebook needs too much memory to be read"


@pytest.mark.parametrize("kind", ["laughs", "file"])
@pytest.mark.parametrize(("name", "package", "member"), PACKAGES)
async def test_entities_are_not_expanded(tmp_path: Path, name: str, package: bytes, member: str, kind: str) -> None:
    """Entities that multiply, or that name a file of this machine, put nothing into the text."""
    bait = files.kept(tmp_path, "bait", b"the bait was read")
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 20}">' for n in range(1, 9))
    entities = f'<!ENTITY l0 "lol">{levels}<!ENTITY e "&l8;">' if kind == "laughs" else f'<!ENTITY e SYSTEM "{bait}">'
    declaration = f"<!DOCTYPE x [{entities}]>"
    bodies = {
        "a.docx": f"{WORD}<w:p><w:r><w:t>word &e;</w:t></w:r></w:p></w:body></w:document>",
        "a.pptx": f"{SLIDE}&e;</p:spTree></p:cSld></p:sld>",
        "a.xlsx": f'{SHEET}<row r="1"><c t="inlineStr"><is><t>word &e;</t></is></c></row></sheetData></worksheet>',
    }
    content = f'<?xml version="1.0"?>{declaration}{bodies[name]}'.encode()
    found = await outcome(files.kept(tmp_path, name, files.with_member(package, member, content)))
    assert "bait" not in found
    assert found.count("lol") < 10
    assert len(found) < 1000


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
async def test_a_truncated_pdf_is_read_as_far_as_it_goes_or_refused(tmp_path: Path, part: float) -> None:
    """A download that broke off gives pages or a sentence, never a crash."""
    whole = files.pdf([f"page number {number}" for number in range(20)])
    found = await outcome(files.kept(tmp_path, "a.pdf", whole[: int(len(whole) * part)]))
    assert found.startswith(("refused: a.pdf: the PDF ", "<!-- page 1 -->"))


async def test_a_pdf_behind_a_password_is_refused(tmp_path: Path) -> None:
    """The sentence says what it is and what to do."""
    found = await outcome(files.kept(tmp_path, "a.pdf", files.encrypted_pdf(password="x")))
    assert found == "refused: a.pdf: the PDF is protected by a password: save a copy without one"


async def test_pages_that_contain_themselves_end(tmp_path: Path) -> None:
    """A tree of pages that is a circle does not hold its reader for ever."""
    circle = files.pdf(["x"]).replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]")
    assert (await outcome(files.kept(tmp_path, "a.pdf", circle))).startswith("refused: a.pdf")


async def test_deep_nesting_costs_nothing(tmp_path: Path) -> None:
    """A page of a hundred thousand elements within each other is read like any other."""
    page = b"<div>" * 100_000 + b"bottom" + b"<table><tr><td>" * 100_000
    assert (await outcome(files.kept(tmp_path, "a.html", page))).startswith("bottom\n\n")


async def test_a_notebook_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    """JSON that would exhaust the parser's stack is a sentence."""
    found = await outcome(files.kept(tmp_path, "a.ipynb", b"[" * 1_000_000))
    assert found.startswith("refused: a.ipynb: the notebook is ")


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.pptx", "a.xlsx", "a.xls", "a.ipynb", "a.eml"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"PK\x03\x04" + bytes(500), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"]
)
async def test_what_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Any bytes under any name end in one sentence that names the file."""
    assert (await outcome(files.kept(tmp_path, name, content))).startswith(f"refused: {name}: the ")


async def test_a_document_without_text_is_refused(tmp_path: Path) -> None:
    """A scan is refused with what to do, instead of becoming an empty context."""
    found = await outcome(files.kept(tmp_path, "a.pdf", files.pdf(["", ""])))
    assert found == "refused: a.pdf: the PDF has no text on its 2 pages: if it is scanned, run OCR over it first"


async def test_too_much_text_is_cut_off(tmp_path: Path) -> None:
    """A document that becomes more text than it may is refused while it is read."""
    page = files.kept(tmp_path, "a.html", b"<p>words " * 200_000)
    limits = ConversionLimits(text_bytes=1 << 20)
    assert "becomes more than 1,048,576 bytes of text" in await outcome(page, limits)


async def test_too_much_processor_time_ends_the_reader(tmp_path: Path) -> None:
    """A reader that computes for too long is ended by the system itself."""
    page = files.kept(tmp_path, "a.html", b"<p>words " * 4_000_000)
    assert "took more than 1 s of processor time" in await outcome(page, ConversionLimits(cpu_s=1))


@pytest.mark.parametrize(("size", "cpu_s"), [(0, 30), (1_000_000, 40), (10_000_000, 130), (10_000_000_000, 600)])
async def test_processor_time_grows_with_the_document(size: int, cpu_s: int) -> None:
    """A small document cannot take as long as a large one."""
    assert ConversionLimits().cpu_s_for(size) == cpu_s


QUICK = ConversionLimits(memory_bytes=512 << 20, cpu_s=6, wall_s=60.0)
"""Each of these took minutes."""


@pytest.mark.parametrize("start", [b"<a ", b"<!--", b"<a href='", b"&"])
async def test_a_tag_without_end_is_refused(tmp_path: Path, start: bytes) -> None:
    """A page that is one tag of many megabytes is not looked through again and again."""
    page = files.kept(tmp_path, "a.html", b"words" + start + b"x" * 40_000_000)
    found = await outcome(page, QUICK)
    assert found.startswith("words&x" if start == b"&" else "refused: a.html: the HTML page has a tag of more than 16,")


@pytest.mark.parametrize("piece", [b"<!-- ", b"<a ", b"</", b"<?"])
async def test_a_page_that_ends_within_a_tag_is_read_to_there(tmp_path: Path, piece: bytes) -> None:
    """Tags within a tag without end are left out, and what is before them is read."""
    page = files.kept(tmp_path, "a.html", b"<p>words</p>" + piece * 200_000)
    assert await outcome(page, QUICK) == "words\n\n"


async def test_a_large_script_or_picture_in_a_page_is_passed_over(tmp_path: Path) -> None:
    """Pages that carry megabytes of data within a script or a tag are read like any other."""
    script = b"<script>" + b"x<y;" * 5_000_000 + b"</script>"
    picture = b'<img alt="a picture" src="data:image/png;base64,' + b"A" * 10_000_000 + b'">'
    page = files.kept(tmp_path, "a.html", script + b"<p>words " + picture + b"</p>")
    assert await outcome(page, QUICK) == "words a picture\n\n"


@pytest.mark.parametrize("piece", ["a@b.example,", "=?utf-8?q?a?= ", "(", '"', "a "])
@pytest.mark.parametrize("header", ["To", "Subject", "Content-Type", "Date"])
async def test_a_header_without_end_is_cut(tmp_path: Path, header: str, piece: str) -> None:
    """A header of a megabyte costs no more than one of 8,192 characters."""
    mail = f"{header}: {piece * (1_000_000 // len(piece))}\nFrom: anna\n\nwords".encode()
    found = await outcome(files.kept(tmp_path, "a.eml", mail), QUICK)
    assert found.startswith(("From: anna", "refused: a.eml: the e-mail is"))
    assert len(found) < 10_000


async def test_a_cell_over_too_many_columns_is_refused(tmp_path: Path) -> None:
    """A table cell that says it spans billions of columns is not written out billions of times."""
    cell = '<w:tc><w:tcPr><w:gridSpan w:val="2000000000"/></w:tcPr><w:p><w:r><w:t>words</w:t></w:r></w:p></w:tc>'
    content = f"{WORD}<w:tbl><w:tblPr/><w:tblGrid/><w:tr>{cell}</w:tr></w:tbl></w:body></w:document>".encode()
    path = files.kept(tmp_path, "a.docx", files.with_member(files.word_document(), "word/document.xml", content))
    assert "has a table cell over more than 16,384 columns" in await outcome(path, QUICK)


async def test_the_deadline_ends_a_reader_that_waits(tmp_path: Path) -> None:
    """A reader that does not finish in time is ended and told, whatever it waits for."""
    page = files.kept(tmp_path, "a.html", b"<p>words " * 1_000)
    assert "took longer than 0 s to read" in await outcome(page, ConversionLimits(wall_s=0.0))


async def test_leaving_early_ends_the_reader(tmp_path: Path) -> None:
    """Whoever stops taking text leaves no process behind."""
    page = files.kept(tmp_path, "a.html", b"<p>words " * 2_000_000)
    before = children()
    async with Document(path=page, format="html").opened("a.html") as chunks:
        async for _ in chunks:
            assert len(children() - before) == 1
            break
    assert children() - before == set()


async def test_cancelling_ends_the_reader(tmp_path: Path) -> None:
    """A cancelled conversion leaves no process behind."""
    page = files.kept(tmp_path, "a.html", b"<p>words " * 2_000_000)
    before = children()
    with anyio.CancelScope() as scope:
        async with Document(path=page, format="html").opened("a.html") as chunks:
            async for _ in chunks:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
    assert children() - before == set()


def children() -> set[int]:
    pid = os.getpid()
    return {
        int(child)
        for task in os.listdir(f"/proc/{pid}/task")
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    }


def confined(code: str, *arguments: str) -> str:
    program = textwrap.dedent(
        """
        import os, resource, socket, sys
        from service.contexts.documents.confinement import confine
        confine(memory_bytes=1 << 30, cpu_s=10)
        """
    ) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


async def test_a_reader_cannot_write_files(tmp_path: Path) -> None:
    """Also where Linux offers no confinement, nothing can be written."""
    target = tmp_path / "written"
    confined("open(sys.argv[1], 'wb', buffering=0).write(b'x')", str(target))
    assert not target.exists() or target.stat().st_size == 0


async def test_a_reader_has_bounds_on_memory_and_processor(tmp_path: Path) -> None:
    """The system's own limits are in force, whatever the reader does."""
    shown = confined("print(resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CPU)[0])")
    assert shown == f"{1 << 30} 10"
    assert "MemoryError" in confined("bytearray(2 << 30)")


@pytest.mark.needs_landlock
async def test_a_reader_cannot_open_files_of_this_machine(tmp_path: Path) -> None:
    """Where there is Landlock, a flaw in a reader does not reach other files; Python's own can still be imported."""
    bait = files.kept(tmp_path, "bait", b"the bait was read")
    assert "PermissionError" in confined("print(open(sys.argv[1]).read())", str(bait))
    assert confined("import colorsys; print('imported')") == "imported"


NUMBERS = this_architecture().numbers
FORBIDDEN = {
    "a unix socket": "socket.socket(socket.AF_UNIX).connect(bait_socket)",
    "an abstract socket": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "a TCP socket": "socket.socket()",
    "a pair of sockets": "socket.socketpair()",
    "a fork": "os.fork()",
    "a thread": "threading.Thread(target=int).start()",
    "a program": "os.execv(sys.executable, ['python'])",
    "a spawned program": "os.posix_spawn(sys.executable, ['python'], {})",
    "its mode": "os.chmod(bait, 0o777)",
    "its owner": "os.chown(bait, os.getuid(), os.getgid())",
    "its times": "os.utime(bait)",
    "its attributes": "os.setxattr(bait, 'user.bait', b'1')",
    "its length": "os.truncate(bait, 0)",
    "its content": "os.open(bait, os.O_RDONLY)",
    "its name": "os.rename(bait, bait + '.moved')",
    "its being there": "os.unlink(bait)",
    "another name": "os.link(bait, bait + '.linked')",
    "a directory": "os.mkdir(bait + '.directory')",
    "a file of Python's own": "os.open(os.__file__, os.O_RDONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_APPEND)",
    "a signal to the service": "os.kill(os.getppid(), 0)",
    "the memory of the service": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "a file in memory": "os.memfd_create('bait')",
    "a higher limit": "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))",
    "ptrace": f"call({NUMBERS['ptrace']}, 16, os.getppid(), 0, 0)",
    "process_vm_readv": f"call({NUMBERS['process_vm_readv']}, os.getppid(), 0, 0, 0, 0, 0)",
    "mount": f"call({NUMBERS['mount']}, 0, 0, 0, 0, 0)",
    "unshare": f"call({NUMBERS['unshare']}, 0x10000000)",
    "setns": f"call({NUMBERS['setns']}, 0, 0)",
    "io_uring_setup": f"call({NUMBERS['io_uring_setup']}, 1, 0)",
    "keyctl": f"call({NUMBERS['keyctl']}, 0, 0, 0, 0, 0)",
    "bpf": f"call({NUMBERS['bpf']}, 0, 0, 0)",
}


async def test_a_reader_reaches_nothing_of_the_service(tmp_path: Path) -> None:
    """Code in a reader's process connects to nothing, starts nothing, signals nobody and changes no file."""
    bait = files.kept(tmp_path, "bait", b"bait")
    bait.chmod(0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.setblocking(False)
        before = os.stat(bait)
        found = json.loads(confined(ATTEMPTS, str(bait), str(tmp_path / "socket"), json.dumps(FORBIDDEN)))
        with pytest.raises(BlockingIOError):
            listener.accept()
    refusals = {errno.EPERM, errno.EACCES, errno.ENOSYS}
    assert {what for what, code in found.items() if code not in refusals} == set()
    assert found.keys() == FORBIDDEN.keys()
    assert os.stat(bait) == before
    assert sorted(os.listdir(tmp_path)) == ["bait", "socket"]


ATTEMPTS = """
import ctypes, json, threading
bait, bait_socket = sys.argv[1:3]
libc = ctypes.CDLL(None, use_errno=True)

def call(*words):
    if libc.syscall(*map(ctypes.c_long, words)) < 0:
        raise OSError(ctypes.get_errno(), 'refused')

found = {}
for what, attempt in json.loads(sys.argv[3]).items():
    try:
        exec(attempt)
        found[what] = 0
    except OSError as error:
        found[what] = error.errno
    except (RuntimeError, ValueError):
        found[what] = 1  # what Python makes of a thread and of a limit that the system refuses
os.write(1, json.dumps(found).encode())
"""


async def test_a_reader_that_cannot_be_confined_reads_nothing(tmp_path: Path) -> None:
    """Where a wall cannot be put in force, the document is refused with what is missing."""
    page = files.kept(tmp_path, "a.html", b"<p>words")
    with page.open("rb") as document:
        done = await anyio.run_process(
            [sys.executable, "-I", "-c", NOT_ON_LINUX, "html", "1073741824", "10", ""], stdin=document, check=False
        )
    assert done.stdout == b""
    said = json.loads(done.stderr)
    assert said["unconfined"] == "needs Linux, and this is darwin"
    assert said["problem"] == f"is not read, because its reader cannot be confined here: it {said['unconfined']}"


@pytest.mark.needs_landlock
async def test_whether_a_reader_can_be_confined_is_told_without_a_document() -> None:
    """Where documents can be read, nothing is missing."""
    assert await missing_confinement() == ""


NOT_ON_LINUX = """
import sys
from service.contexts.documents import program
sys.platform = 'darwin'
sys.exit(program.main())
"""

"""From what a person names with -c to what is stored."""

import errno
import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.inputs import MAX_FILES, Source, StoredContext, find_sources
from service.contexts.redis_contexts import MOST_PARTS
from service.errors import BadRequest
from service.ids import ContextId


def found(*arguments: str) -> list[Source]:
    return [source for source in find_sources(arguments) if isinstance(source, Source)]


def refusal(*arguments: str) -> str:
    with pytest.raises(BadRequest) as refused:
        find_sources(arguments)
    return str(refused.value)


def test_whatever_is_found_can_be_stored() -> None:
    """No directory passes the check here only to be refused by the store."""
    assert MAX_FILES <= MOST_PARTS


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", "text"), ("a.csv", "text"), ("a.JSON", "json"), ("a.jsonl", "json_lines"), ("a.ndjson", "json_lines")],
)
def test_the_suffix_decides_the_kind(tmp_path: Path, name: str, kind: str) -> None:
    """JSON and JSON Lines become values, everything else becomes text."""
    (tmp_path / name).write_text("[1]\n")
    (source,) = found(str(tmp_path / name))
    assert (source.kind, source.name) == (kind, name)


def test_a_directory_is_one_context_of_named_texts(tmp_path: Path) -> None:
    """A source tree becomes its text files by relative path, in order; what is left out is said, by reason."""
    (tmp_path / "src").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x")
    (tmp_path / "src" / "b.py").write_text("b = 1\n")
    (tmp_path / "src" / "a.py").write_text("a = 1\n")
    (tmp_path / "README").write_text("read\n")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "out").symlink_to("/etc/hostname")
    (source,) = found(str(tmp_path))
    assert source.kind == "named_texts"
    assert [file.name for file in source.files] == ["README", "src/a.py", "src/b.py"]
    told = "\n".join(source.left_out)
    assert "1 entry: hidden (.git)" in told
    assert "1 file: not text (logo.png)" in told
    assert "1 file: in an encoding that could not be told (say --encoding NAME) (latin.txt)" in told
    assert "1 entry: a link (out)" in told


def test_a_glob_with_one_match_is_that_file(tmp_path: Path) -> None:
    """A pattern that finds one JSON file gives JSON, as if the file had been named."""
    (tmp_path / "only.json").write_text("{}")
    (source,) = found(str(tmp_path / "*.json"))
    assert (source.kind, source.name) == ("json", "only.json")


def test_a_glob_with_several_matches_is_named_texts(tmp_path: Path) -> None:
    """Names stay unique: they are relative to what the matches share."""
    for part in ("2023/log.txt", "2024/log.txt"):
        (tmp_path / part).parent.mkdir()
        (tmp_path / part).write_text(part)
    (source,) = found(str(tmp_path / "**" / "*.txt"))
    assert [file.name for file in source.files] == ["2023/log.txt", "2024/log.txt"]


def test_a_name_that_looks_like_a_pattern_is_taken_as_it_is(tmp_path: Path) -> None:
    """An existing file wins over what its name could also mean."""
    odd = tmp_path / "a[1]=x.txt"
    odd.write_text("text")
    (source,) = found(str(odd))
    assert (source.name, source.variable) == ("a[1]=x.txt", None)


def test_a_context_can_be_given_a_variable(tmp_path: Path) -> None:
    """NAME=PATH binds the context to that name besides context_N."""
    (tmp_path / "a.txt").write_text("a")
    sources = found(f"logs={tmp_path / 'a.txt'}", str(tmp_path / "a.txt"), "text=-")
    assert [source.variable for source in sources] == ["logs", None, "text"]


def test_a_stored_context_is_named_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ctx_… and NAME=ctx_… mean the stored context, unless there is a file of that name."""
    context_id = ContextId("ctx_" + "1" * 32)
    assert find_sources([context_id, f"old={context_id}"]) == (
        StoredContext(context_id=context_id),
        StoredContext(context_id=context_id, variable="old"),
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / context_id).write_text("a file")
    (source,) = found(context_id)
    assert source.name == context_id


def test_a_fifo_is_read_when_it_is_stored(tmp_path: Path) -> None:
    """Process substitution gives a pipe, which is read only once: looking must not consume or block on it."""
    os.mkfifo(tmp_path / "pipe")
    (source,) = found(str(tmp_path / "pipe"))
    assert source.kind == "text"


def test_every_unusable_path_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Missing, empty, binary, cut, of no use: the message names the path and the reason."""
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.bin").write_bytes(b"abc\0def")
    (tmp_path / "cut.txt").write_bytes("ö".encode()[:1])
    (tmp_path / "wrong.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "no_text").mkdir()
    (tmp_path / "no_text" / "x.bin").write_bytes(b"\0")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
    assert "no file, directory or glob match" in refusal(str(tmp_path / "missing.txt"))
    assert "no file, directory or glob match" in refusal(str(tmp_path / "*.nothing"))
    assert "is empty" in refusal(str(tmp_path / "empty.txt"))
    assert "a zero byte at offset 3" in refusal(str(tmp_path / "binary.bin"))
    assert "no UTF-8 at offset 3" in refusal(str(tmp_path / "wrong.txt"))
    assert "ends within a UTF-8 character" in refusal(str(tmp_path / "cut.txt"))
    assert "holds no text file (" in refusal(str(tmp_path / "no_text"))
    assert "neither a file, a directory nor a pipe" in refusal(str(tmp_path / "sock"))
    assert "is no path" in refusal("")
    assert "stdin can be one context only" in refusal("-", "a=-")


def test_what_cannot_be_looked_at_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose disk or permissions fail is told among those left out of a glob or a directory, with the reason."""
    for name in ("good.txt", "io.txt", "denied.txt"):
        (tmp_path / name).write_text("x")
    look = Path.stat

    def failing(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        codes = {"io.txt": errno.EIO, "denied.txt": errno.EACCES}
        if path.name in codes:
            raise OSError(codes[path.name], os.strerror(codes[path.name]))
        return look(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", failing)
    for argument in (str(tmp_path), str(tmp_path / "*.txt")):
        (source,) = found(argument)
        assert [file.name for file in source.files] == ["good.txt"]
        assert "unreadable (denied.txt)" in "\n".join(source.left_out)
        assert "unreadable (Input/output error) (io.txt)" in "\n".join(source.left_out)


def test_a_document_without_its_library_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the documents extra is missing a PDF is refused with the command that installs it."""
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "notes.txt").write_text("x")
    monkeypatch.setitem(sys.modules, "pypdf", None)  # Python's own way to say that it is not there
    told = refusal(str(tmp_path / "report.pdf"))
    assert (
        "report.pdf is a PDF: to read it, install the documents extra with `sh deploy/setup_environment.sh documents`"
        in told
    )
    (source,) = found(str(tmp_path))
    assert [file.name for file in source.files] == ["notes.txt"]
    assert "setup_environment.sh documents" in source.left_out[0]
    assert "(report.pdf)" in source.left_out[0]


def test_a_path_with_control_characters_cannot_drive_the_terminal(tmp_path: Path) -> None:
    """The name of a missing file is shown escaped."""
    assert "\x1b" not in refusal(str(tmp_path / "\x1b[2J"))


@given(st.text(st.characters(codec="utf-8"), max_size=400))
def test_any_argument_is_found_or_refused(text: str) -> None:
    """No string given to -c ends in anything but sources or a BadRequest."""
    if text in (".", "..") or "/" in text or "*" in text or "~" in text:
        return
    try:
        sources = find_sources([text])
    except BadRequest:
        return
    assert len(sources) == 1

"""Files of every kind, from the command line into a context."""

import json
from pathlib import Path

from tests.cli.conftest import CommandLine
from tests.contexts import document_files as files

GERMAN = "Die Größe des Gebäudes überraschte die Gäste; schöne Grüße aus München.\n"
SCRIPTED = ("--model", "scripted/root", "--sub-model", "scripted/sub")


def test_a_question_can_be_about_a_pdf(command_line: CommandLine) -> None:
    """The main job works over a document: its text is what the model searches, and stderr says so."""
    pages = [f"filler on page {number}" for number in range(1, 40)]
    pages[20] = "The magic number is 4711"
    path = files.kept(command_line.directory, "report.pdf", files.pdf(pages))
    done = command_line.run("ask", "What is the magic number?", "-c", str(path), *SCRIPTED)
    assert (done.code, done.out.strip()) == (0, b"4711"), done.err
    assert "report.pdf: read as PDF (39 pages)" in done.err


def test_a_directory_of_everything(command_line: CommandLine) -> None:
    """Documents, legacy text and plain text become one context; what cannot be used is told by name and reason."""
    root = command_line.directory / "mixed"
    root.mkdir()
    files.kept(root, "a.docx", files.word_document())
    files.kept(root, "b.txt", GERMAN.encode("cp1252"))
    files.kept(root, "c.txt", b"plain\n")
    files.kept(root, "d.pdf", files.encrypted_pdf(password="x"))
    files.kept(root, "e.bin", b"\0")
    files.kept(root, "f.txt", "Größe".encode("cp1252"))
    done = command_line.run("contexts", "put", str(root), "--json")
    assert done.code == 0, done.err
    (context,) = json.loads(done.out)
    assert (context["kind"], context["length"]) == ("named_texts", 3)
    for told in (
        "a.docx: read as Word document",
        "b.txt: converted to UTF-8 from cp1252, guessed from its bytes; if that is wrong, say --encoding NAME",
        "left out: d.pdf: the PDF is protected by a password",
        "mixed: left out 1 file: not text (e.bin)",
        "mixed: left out 1 file: in an encoding that could not be told (say --encoding NAME) (f.txt)",
    ):
        assert told in done.err


def test_an_encoding_can_be_named(command_line: CommandLine) -> None:
    """--encoding reads files and stdin that nobody could guess, and is refused where it is none."""
    path = files.kept(command_line.directory, "short.txt", "Größe".encode("cp850"))
    for arguments, given in [((str(path),), b""), (("-",), "Größe".encode("cp850"))]:
        done = command_line.run("contexts", "put", *arguments, "--encoding", "cp850", "--json", given=given)
        assert done.code == 0, done.err
        assert json.loads(done.out)[0]["length"] == 5
    refused = command_line.run("contexts", "put", str(path), "--encoding", "hex")
    assert (refused.code, refused.out) == (2, b"")
    assert "there is no text encoding 'hex'" in refused.err


def test_a_page_can_be_taken_with_its_markup(command_line: CommandLine) -> None:
    """--no-convert keeps HTML as it is; without it only what a person reads is kept."""
    path = files.kept(command_line.directory, "page.html", b"<p>words</p>")
    converted = json.loads(command_line.run("contexts", "put", str(path), "--json").out)[0]
    as_it_is = json.loads(command_line.run("contexts", "put", str(path), "--json", "--no-convert").out)[0]
    assert (converted["length"], as_it_is["length"]) == (len("words\n\n"), len("<p>words</p>"))


def test_thousands_of_documents_do_not_flood_the_terminal(command_line: CommandLine, tmp_path: Path) -> None:
    """Only the first conversions of a directory are told one by one; the rest are counted."""
    for number in range(25):
        files.kept(tmp_path, f"{number:02}.txt", GERMAN.encode("cp1252"))
    done = command_line.run("contexts", "put", str(tmp_path))
    assert done.err.count("converted to UTF-8 from cp1252") == 20
    assert "5 more were converted or left out" in done.err

"""Mapped texts: like every other `str`, for as long as the process lives; decoded where they cannot be had."""

import ctypes
import itertools
import json
import mmap
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_image.bindings import BindingRefused, ContextFiles, bind_all
from sandbox_image.host_functions import CallChannel, HostFunctions
from sandbox_image.interrupts import Interrupts
from sandbox_image.namespace import Namespace
from sandbox_image.protocol import Binding, BindingKind, BindRequest, BoundFile, ImageEncoding, TextImage, TextListImage
from sandbox_image.shared_text import (
    WIDTHS,
    Layout,
    SharedTexts,
    differences,
    find_support,
    layout_of,
    this_interpreter,
    try_layout,
)
from service.contexts.text_lists import plan_list
from tests.sandbox_image.host import IMAGE, Host

pytestmark = pytest.mark.needs_mapped_texts

LAYOUT = cast(Layout, layout_of(this_interpreter()))  # None only where that marker lets no test run
SHARED = SharedTexts(LAYOUT)
WIDEST: dict[ImageEncoding, str] = {"ascii": "~", "latin-1": "ÿ", "utf-16-le": "€", "utf-32-le": "\U0001f600"}
ENCODINGS: tuple[ImageEncoding, ...] = ("ascii", "latin-1", "utf-16-le", "utf-32-le")


def map_text(text: str, encoding: ImageEncoding) -> str:
    """The same text, mapped from a file that is gone by now."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(text.encode(encoding))
        # A name of its own: equal images are one object.
        return SHARED.text(
            file.fileno(), TextImage(file=f"{encoding}-{os.urandom(8).hex()}", encoding=encoding, length=len(text))
        )


def texts(encoding: ImageEncoding, *, max_size: int = 300) -> st.SearchStrategy[str]:
    """Texts of which this is the narrowest encoding."""
    characters = st.characters(max_codepoint=ord(WIDEST[encoding]), exclude_categories=["Cs"])
    words = st.sampled_from(["\n", " ", "\r\n", "\0", "ab", "aab", "12", WIDEST[encoding]])
    pieces = st.lists(st.one_of(words, characters), max_size=max_size)
    return pieces.map(lambda found: "".join(found) + WIDEST[encoding])


ANY_TEXT = st.sampled_from(ENCODINGS).flatmap(lambda encoding: st.tuples(st.just(encoding), texts(encoding)))


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT)
def test_a_mapped_text_is_like_any_other(case: tuple[ImageEncoding, str]) -> None:
    """Whole-value operations, encodings, hashing, keys, JSON, pickle, wide characters: nothing tells them apart."""
    encoding, text = case
    assert differences(map_text(text, encoding), text) == []


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT, st.slices(300), st.data())
def test_every_part_of_a_mapped_text_is_found(case: tuple[ImageEncoding, str], cut: slice, data: st.DataObject) -> None:
    """Any slice, and any piece looked for, counted, split at or replaced, is that of an ordinary text."""
    encoding, text = case
    mapped = map_text(text, encoding)
    assert mapped[cut] == text[cut]
    start = data.draw(st.integers(0, len(text) - 1))
    piece = text[start : start + data.draw(st.integers(1, 4))]
    assert (mapped.find(piece), mapped.rfind(piece)) == (text.find(piece), text.rfind(piece))
    assert mapped.count(piece) == text.count(piece)
    assert mapped.split(piece) == text.split(piece)
    assert mapped.replace(piece, "¤") == text.replace(piece, "¤")
    found = [match.span() for match in re.finditer(re.escape(piece), mapped)]
    assert found == [match.span() for match in re.finditer(re.escape(piece), text)]
    assert (mapped[start], piece in mapped, mapped.startswith(piece, start)) == (text[start], True, True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("pages", [0, 1, 2, 16])
def test_texts_around_whole_pages_end_where_they_end(encoding: ImageEncoding, pages: int, beyond: int) -> None:
    """One character, and as many as fill pages, one less and one more: each ends in a NUL that can be read."""
    length = max(1, pages * mmap.PAGESIZE // WIDTHS[encoding] + beyond)
    text = "a" * (length - 1) + WIDEST[encoding]
    mapped = map_text(text, encoding)
    assert differences(mapped, text) == []
    data_address = ctypes.c_ssize_t.from_address(id(mapped) + LAYOUT.data).value
    assert ctypes.string_at(data_address + len(text) * WIDTHS[encoding], WIDTHS[encoding]) == bytes(WIDTHS[encoding])


def test_a_number_in_a_mapped_text_is_a_number() -> None:
    """What reads up to the terminating NUL stops there, also where the digits fill a page."""
    digits = "1" * mmap.PAGESIZE
    assert float(map_text(digits, "ascii")) == float(digits)
    assert int(map_text(digits[:4000], "ascii")) == int(digits[:4000])


def test_whole_values_are_not_copied() -> None:
    """`c[:]`, `str(c)`, an f-string of it alone, `strip` and `join` give the mapped text itself."""
    mapped = map_text("word " * 1000 + "word", "ascii")
    assert type(mapped) is str
    for same in (mapped[:], str(mapped), f"{mapped}", mapped.strip(), "".join([mapped]), mapped.replace("x", "y")):
        assert same is mapped


_LIFE = """
import ctypes, gc, mmap, os, sys, tempfile
from sandbox_image.protocol import TextImage
from sandbox_image.shared_text import *

support = find_support(this_interpreter())
assert support.remark == "texts:mapped", support.remark
widest = {"ascii": "~", "latin-1": "ÿ", "utf-16-le": "€", "utf-32-le": "\\U0001f600"}
for encoding, width in WIDTHS.items():
    for size in (1, 2, 100, mmap.PAGESIZE // width - 1, mmap.PAGESIZE // width, mmap.PAGESIZE // width + 1, 50_000):
        shared = SharedTexts(support.layout)
        text = ("word 17,\\n" * (size // 9 + 1))[: size - 1] + widest[encoding]
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(text.encode(encoding))
            mapped = shared.text(file.fileno(), TextImage(file="f", encoding=encoding, length=size))
        assert differences(mapped, text) == [], (encoding, size, differences(mapped, text))
        grown = mapped
        del mapped
        shared._texts.clear()
        del shared
        gc.collect()
        for number in range(100):
            grown += "x"
        assert grown == text + "x" * 100
        del grown
        gc.collect()

class Named:
    pass

with tempfile.TemporaryFile(buffering=0) as file:
    file.write(b"a_name" * 100)
    mapped = SharedTexts(support.layout).text(file.fileno(), TextImage(file="f", encoding="ascii", length=600))
named = Named()
setattr(named, mapped, 5)
assert getattr(named, "a_name" * 100) == 5
assert sys.intern(mapped) == "a_name" * 100
assert exec(f"{mapped} = 7", space := {}) is None and space[mapped] == 7
gc.freeze(); gc.unfreeze(); gc.get_objects(); gc.collect()
assert not gc.is_tracked(mapped)
assert mapped not in [None] and sys.getsizeof(mapped) > 600
if os.fork() == 0:
    os._exit(0 if mapped.count("a_name") == 100 else 1)
assert os.wait()[1] == 0
print("to the end")
"""


def _pythons() -> Iterator[Path]:
    """Interpreters of the versions whose layout is known, where this machine has them."""
    for version in ("3.11", "3.12", "3.13"):
        places = [Path(found) for found in [shutil.which(f"python{version}")] if found]
        versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
        places += sorted(versions.glob(f"{version}.*/bin/python{version}"))
        for place in places:
            if subprocess.run([place, "-c", "import ctypes"], capture_output=True, check=False).returncode == 0:
                yield place
                break


PYTHONS = [Path(sys.executable), *_pythons()]


@pytest.mark.parametrize("python", PYTHONS, ids=[python.name for python in PYTHONS])
@pytest.mark.parametrize("allocator", ["default", "debug", "malloc"])
def test_a_mapped_text_outlives_all_that_refers_to_it(python: Path, allocator: str) -> None:
    """Dropping, collecting, growing, interning, forking and leaving never free or move what is mapped."""
    done = subprocess.run(
        [python, "-X", "faulthandler", "-c", _LIFE],
        env={"PYTHONPATH": str(IMAGE.parent), "PYTHONMALLOC": allocator, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "to the end\n"), done.stderr[-3000:]


@pytest.mark.parametrize(
    "change",
    [
        {"version": (3, 14)},
        {"name": "pypy"},
        {"str_size": 72},
        {"pointer_size": 4},
        {"little_endian": False},
        {"is_ordinary_build": False},
    ],
)
def test_an_unknown_interpreter_decodes(change: dict[str, Any]) -> None:
    """Another version, implementation, size or build has no layout, and says so; nothing is tried on it."""
    support = find_support(replace(this_interpreter(), **change))
    assert support.layout is None
    assert re.fullmatch(r"texts:decoded \(layout of \w+ 3\.\d+ is not known\)", support.remark)


def test_this_interpreter_maps() -> None:
    """The interpreter of these tests passes the self-test."""
    assert find_support(this_interpreter()).remark == "texts:mapped"


FIELDS = [name for name in ("utf8_length", "utf8", "data", "wide", "wide_length") if getattr(LAYOUT, name, None)]
FORGETTABLE = [name for name in FIELDS if name.startswith("wide")]


@pytest.mark.parametrize(
    ("field", "moved_to"),
    [*itertools.product(FIELDS, [-8, 8, 16, 32, 1 << 40]), *itertools.product(FORGETTABLE, [None])],
)
def test_a_wrong_layout_is_found_out(field: str, moved_to: int | None) -> None:
    """With a field elsewhere, or forgotten, texts are decoded, and this process is none the worse for the attempt."""
    change: dict[str, Any] = {field: None if moved_to is None else getattr(LAYOUT, field) + moved_to}
    support = try_layout(replace(LAYOUT, **change))
    assert (support.layout, support.remark) == (None, "texts:decoded (the self-test failed)")


def placed(directory: Path, name: str, text: str, encoding: ImageEncoding) -> BoundFile:
    """An original and its image."""
    (directory / name).write_bytes(text.encode())
    (directory / f"{name}.image").write_bytes(text.encode(encoding))
    image = TextImage(file=f"{name}.image", encoding=encoding, length=len(text))
    return BoundFile(part=name, file=name, size_bytes=len(text.encode()), image=image)


def bound(directory: Path, binding: Binding, shared: SharedTexts | None) -> Any:
    """The value that a kernel would bind."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        namespace = Namespace(HostFunctions(CallChannel(ours, Interrupts())))
    bind_all(namespace, BindRequest(bindings=[binding]), ContextFiles(str(directory), shared))
    return namespace.names[binding.name]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_without_support_the_same_text_is_decoded(tmp_path: Path, encoding: ImageEncoding) -> None:
    """A kernel that cannot map binds the original, although there is an image; it is the same text."""
    text = "some text " * 10_000 + WIDEST[encoding]
    file = placed(tmp_path, "c", text, encoding)
    binding = Binding(name="c", kind=BindingKind.TEXT, files=[file])
    mapped = bound(tmp_path, binding, SharedTexts(LAYOUT))
    (tmp_path / "c.image").unlink()
    assert bound(tmp_path, binding, None) == mapped == text


def test_parts_are_mapped_one_by_one(tmp_path: Path) -> None:
    """Of named texts each is mapped in its own width, and those without an image are decoded."""
    words = {name: "word " * 5_000 + WIDEST[name] for name in ENCODINGS}
    files = [placed(tmp_path, name, text, name) for name, text in words.items()]
    (tmp_path / "small").write_bytes(b"")
    files.append(BoundFile(part="small", file="small", size_bytes=0))
    shared = SharedTexts(LAYOUT)
    binding = Binding(name="docs", kind=BindingKind.NAMED_TEXTS, files=files)
    value = bound(tmp_path, binding, shared)
    assert list(value.items()) == [*words.items(), ("small", "")]
    again = bound(tmp_path, binding, shared)
    assert [again[name] is value[name] for name in words] == [True] * 4


TEXT_LISTS = st.lists(
    st.one_of(
        st.sampled_from(ENCODINGS).flatmap(lambda encoding: texts(encoding, max_size=20)),
        st.sampled_from(ENCODINGS).map(lambda encoding: WIDEST[encoding] * 3 + "word " * 1000),
        st.sampled_from(["", "a", "\ud800", "\ud800" + "a" * 3000, "x" * 4095, "x" * 4096, "€" * 2048]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(TEXT_LISTS)
def test_a_list_is_mapped_as_it_was_written(wanted: list[str]) -> None:
    """Texts of any length and width, lone surrogates too, come out of the store's file as they went in."""
    planned = plan_list(wanted)
    with tempfile.TemporaryFile() as file:
        planned.write(file)
        file.flush()
        assert file.tell() == planned.size_bytes
        image = TextListImage(file=os.urandom(8).hex(), size_bytes=planned.size_bytes, count=len(wanted))
        found = SHARED.texts(file.fileno(), image)
        assert found == wanted
        for mapped, ordinary in zip(found, wanted, strict=True):
            if "\ud800" not in ordinary:
                assert differences(mapped, ordinary) == []
        found.append("mine")
        assert SHARED.texts(file.fileno(), image) == wanted


def test_a_list_is_bound_with_and_without_support(tmp_path: Path) -> None:
    """A kernel that cannot map parses the JSON; one whose image is not laid out as it should be does, too."""
    wanted = ["word " * 5_000 + WIDEST[encoding] for encoding in ENCODINGS]
    planned = plan_list(wanted)
    with (tmp_path / "image").open("wb") as image_file:
        planned.write(image_file)
    document = json.dumps(wanted).encode()
    (tmp_path / "c").write_bytes(document)
    image = TextListImage(file="image", size_bytes=planned.size_bytes, count=len(wanted))
    file = BoundFile(part="c", file="c", size_bytes=len(document), list_image=image)
    binding = Binding(name="c", kind=BindingKind.JSON, files=[file])
    assert bound(tmp_path, binding, SharedTexts(LAYOUT)) == wanted
    content = bytearray((tmp_path / "image").read_bytes())
    content[8:16] = (1 << 40).to_bytes(8, "little")
    (tmp_path / "image").write_bytes(content)
    assert bound(tmp_path, binding, SharedTexts(LAYOUT)) == wanted
    (tmp_path / "image").unlink()
    assert bound(tmp_path, binding, None) == wanted


@pytest.mark.parametrize(("change", "message"), [({"length": 6}, "expected 6 bytes"), ({"file": "absent"}, "opened")])
def test_an_image_that_is_not_as_announced_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A file that is missing, or of another size, is the host's mistake; no other text is bound in its place."""
    file = placed(tmp_path, "c", "texts", "ascii")
    assert file.image is not None
    wrong = replace(file, image=replace(file.image, **change))
    with pytest.raises(BindingRefused, match=message):
        bound(tmp_path, Binding(name="c", kind=BindingKind.TEXT, files=[wrong]), SharedTexts(LAYOUT))


def test_a_sandbox_says_that_it_maps(host: Host) -> None:
    """How large texts arrive is among what a claim reports."""
    with_image = host.place("c", b"mapped text") | {"image": {"file": "c", "encoding": "ascii", "length": 11}}
    binding = {"name": "context_0", "kind": "text", "files": [with_image], "aliases": ["context"]}
    assert host.request("POST", "/bind", {"bindings": [binding]}).status == 200
    code = "print(context is context_0, context is context[:], type(context) is str, context)"
    assert host.run(code)["stdout"]["head"] == "True True True mapped text\n"
    assert host.value("context").body == b"mapped text"
    host.request("POST", "/restart", {})
    assert host.request("POST", "/bind", {"bindings": [binding]}).status == 200
    assert host.evaluate("context") == "mapped text"


@pytest.mark.parametrize(
    "image",
    [
        {"file": "../sandbox.sock", "encoding": "ascii", "length": 1},
        {"file": "c", "encoding": "utf-8", "length": 4},
        {"file": "c", "encoding": "ascii", "length": 0},
        {"file": "c", "encoding": "ascii", "length": -1},
        {"file": "c", "encoding": "ascii"},
        {"file": "../sandbox.sock", "size_bytes": 24, "count": 1},
        {"file": "c", "size_bytes": 23, "count": 1},
        {"file": "c", "size_bytes": 24, "count": 0},
    ],
)
def test_an_image_that_cannot_be_one_is_a_bad_request(host: Host, image: dict[str, Any]) -> None:
    """Other directories, unknown encodings and impossible lengths are refused before the kernel is asked."""
    kind = "list_image" if "count" in image else "image"
    binding = {"name": "c", "kind": "text", "files": [host.place("c", b"text") | {kind: image}]}
    answered = host.request("POST", "/bind", {"bindings": [binding]})
    assert (answered.status, answered.json["code"]) == (400, "bad_request")

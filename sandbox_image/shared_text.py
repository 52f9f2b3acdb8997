"""Stored texts as real `str`s that are not copied: their characters are a read-only mapping of a file.

Why: a text of 1 GB takes seconds to read and decode, and its memory once in every session. Mapped, it is there in
microseconds, and all sandboxes of a machine share the pages of one file in the operating system's cache.

How: CPython keeps the characters of a `str` subclass's instance behind a pointer, not behind its header:

    3.11          | count | type | length | hash | state | wide | UTF-8 length | UTF-8 | wide length | data |
    3.12, 3.13    | count | type | length | hash | state |        UTF-8 length | UTF-8               | data |

`data` points to `length` characters of 1, 2 or 4 bytes, the narrowest width that holds all, and one NUL character
behind them. `state` says which width, and whether all is ASCII; ASCII characters are their own UTF-8, so `UTF-8`
points there too (as `wide` does, for 4 bytes, in 3.11). So: a short placeholder of the same width is made, which gets
`state` right; then the pointers and lengths are set to the mapping and the hash is cleared. The store writes the
file in just that width (`TextImage`); for ASCII it is the original.

At last the object's type is set from the subclass to `str` itself. Nothing in CPython assumes that an exact `str` has
its characters behind the header (until 3.11 many had not), and much returns an exact `str` itself where a copy of a
subclass's instance would be due: `str(c)`, `c[:]`, `f"{c}"`, `"".join([c])`, `c.strip()`. `type(c) is str`, too.

Rules that keep it safe:
- Only for interpreters whose layout was verified: version, size of the header, and what the placeholder's own fields
  hold are all checked before anything is written.
- `try_layout` compares mapped with ordinary texts once, in a child process, since a wrong layout shows as a crash.
  What does not pass is not used: texts are then read and decoded, as if there were no image.
- The object must never be freed, since its characters are not the allocator's: one reference is given away for good,
  which also keeps `s += x` from growing it in place. The garbage collector must not visit it, since it was made for
  a type that is collected, and a `str` is not.
- The NUL behind the characters is made by the mapping: zeros fill a file's last page, and a page of zeros follows
  where that page is full.

All this is the sandbox's own memory. The host neither sees nor trusts any of it; the file is read-only to the
sandbox, and the mapping private: code that makes it writable changes its own copy.
"""

import ctypes
import faulthandler
import json
import mmap
import os
import pickle
import re
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .protocol import LIST_ENTRY, LIST_ENTRY_ENCODINGS, ImageEncoding, TextImage, TextListImage

WIDTHS: dict[ImageEncoding, int] = {"ascii": 1, "latin-1": 1, "utf-16-le": 2, "utf-32-le": 4}
_SAMPLES: dict[ImageEncoding, str] = {"ascii": "aab", "latin-1": "aéé", "utf-16-le": "a€é", "utf-32-le": "a\U0001f600é"}
_WORD = 8
_TYPE, _LENGTH, _HASH = 1, 2, 3
"""Where these stand, in words; the same in all layouts."""
_NOT_HASHED = -1
_SELF_TEST_CPU_S = 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the fields of a `str` that is not compact stand, in bytes from its beginning."""

    size: int
    utf8_length: int
    utf8: int
    data: int
    wide: int | None = None
    wide_length: int | None = None


_BEFORE_3_12 = Layout(size=80, wide=40, utf8_length=48, utf8=56, wide_length=64, data=72)
_SINCE_3_12 = Layout(size=64, utf8_length=40, utf8=48, data=56)
_LAYOUTS = {(3, 11): _BEFORE_3_12, (3, 12): _SINCE_3_12, (3, 13): _SINCE_3_12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """What of an interpreter decides how its strings lie in memory."""

    name: str
    version: tuple[int, int]
    str_size: int
    pointer_size: int
    little_endian: bool
    is_ordinary_build: bool
    """Neither for debugging, nor free-threaded, nor tracing references: these have other headers or further checks."""


def this_interpreter() -> Interpreter:
    return Interpreter(
        name=sys.implementation.name,
        version=sys.version_info[:2],
        str_size=str.__basicsize__,
        pointer_size=ctypes.sizeof(ctypes.c_void_p),
        little_endian=sys.byteorder == "little",
        is_ordinary_build=sys.abiflags == "" and not hasattr(sys, "getobjects"),
    )


def layout_of(interpreter: Interpreter) -> Layout | None:
    """The layout, if it is one that was verified."""
    layout = _LAYOUTS.get(interpreter.version)
    is_known = (
        layout is not None
        and interpreter.name == "cpython"
        and interpreter.str_size == layout.size
        and interpreter.pointer_size == 8
        and interpreter.little_endian
        and interpreter.is_ordinary_build
    )
    return layout if is_known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Whether texts can be mapped here."""

    layout: Layout | None
    remark: str
    """In the words of `ClaimReply.confinement`: `texts:mapped`, or that they are decoded, and why."""


def find_support(interpreter: Interpreter) -> Support:
    """What can be had on this interpreter. Call it while this process has one thread."""
    layout = layout_of(interpreter)
    if layout is None:
        version = ".".join(map(str, interpreter.version))
        return Support(layout=None, remark=f"texts:decoded (layout of {interpreter.name} {version} is not known)")
    return try_layout(layout)


def try_layout(layout: Layout) -> Support:
    """Find out in a child process whether texts can be mapped with this layout."""
    if not _passes_self_test(layout):
        return Support(layout=None, remark="texts:decoded (the self-test failed)")
    return Support(layout=layout, remark="texts:mapped")


class NotMapped(Exception):
    """This text cannot be mapped; it can still be decoded."""


class SharedTexts:
    """The mapped texts of a kernel. The same image is the same object, also in a session's next run."""

    def __init__(self, layout: Layout, make_room: Callable[[int], None] = lambda _size_bytes: None) -> None:
        """`make_room` is told the size of each file before it is mapped, for limits that count mapped files."""
        self._maker = TextMaker(layout)
        self._make_room = make_room
        self._texts: dict[TextImage, str] = {}
        self._lists: dict[TextListImage, tuple[str, ...]] = {}

    def text(self, descriptor: int, image: TextImage) -> str:
        """The text of an image that is open as `descriptor`, which may be closed afterwards.

        Raises:
            NotMapped: the operating system does not map it.
        """
        if image not in self._texts:
            width = WIDTHS[image.encoding]
            self._make_room(image.length * width + mmap.PAGESIZE)
            address = _map_file(descriptor, image.length * width, width)
            self._texts[image] = self._maker.text_at(address, image.length, image.encoding)
        return self._texts[image]

    def texts(self, descriptor: int, image: TextListImage) -> list[str]:
        """A new list of the texts of an image. Those that are shorter than a page are ordinary.

        Raises:
            NotMapped: the operating system does not map it, or it is not laid out as it should be.
        """
        if image not in self._lists:
            self._make_room(image.size_bytes + mmap.PAGESIZE)
            address = _map_file(descriptor, image.size_bytes, 1)
            self._lists[image] = tuple(self._list_at(address, image))
        return list(self._lists[image])

    def _list_at(self, address: int, image: TextListImage) -> Iterator[str]:
        content = memoryview((ctypes.c_char * image.size_bytes).from_address(address)).cast("B")
        for offset, length, number in LIST_ENTRY.iter_unpack(content[: image.count * LIST_ENTRY.size]):
            encoding = LIST_ENTRY_ENCODINGS[number % len(LIST_ENTRY_ENCODINGS)]
            end = offset + length * WIDTHS[encoding]
            if number >= len(LIST_ENTRY_ENCODINGS) or end + WIDTHS[encoding] > image.size_bytes:
                raise NotMapped("a text of a list is not as its entry says")
            if end - offset < mmap.PAGESIZE:
                yield str(content[offset:end], encoding, "surrogatepass")
            else:
                yield self._maker.text_at(address + offset, length, encoding)


class TextMaker:
    """Makes `str`s whose characters are at an address."""

    def __init__(self, layout: Layout) -> None:
        self._words = ctypes.c_ssize_t * (layout.size // _WORD)
        self._fields = {encoding: _fields_to_set(layout, encoding) for encoding in WIDTHS}

    def text_at(self, address: int, length: int, encoding: ImageEncoding) -> str:
        """A text whose characters are at an address, for ever.

        Raises:
            NotMapped: the interpreter's strings are not laid out as expected.
        """
        sample = _SAMPLES[encoding]
        placeholder = _Placeholder(sample)
        words = self._words.from_address(id(placeholder))
        pointers, lengths = self._fields[encoding]
        own_characters = words[pointers[0]]
        as_expected = (
            words[_TYPE] == id(_Placeholder)
            and words[_HASH] in (_NOT_HASHED, hash(sample))
            and all(words[field] == own_characters for field in pointers)
            and all(words[field] == len(sample) for field in lengths)
        )
        if not as_expected:
            raise NotMapped("a string's fields are not where they were expected")
        _keep_for_ever(placeholder)
        for field in pointers:
            words[field] = address
        for field in lengths:
            words[field] = length
        words[_HASH] = _NOT_HASHED
        words[_TYPE] = id(str)
        return placeholder


class _Placeholder(str):
    __slots__ = ()


def _keep_for_ever(placeholder: _Placeholder) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(placeholder))
    ctypes.pythonapi.PyObject_GC_UnTrack(ctypes.py_object(placeholder))


def _fields_to_set(layout: Layout, encoding: ImageEncoding) -> tuple[list[int], list[int]]:
    """Those that hold the address of the characters, and those that hold their number; in words.

    Raises:
        NotMapped: one would be outside the header.
    """
    pointers, lengths = [layout.data], [_LENGTH * _WORD]
    if encoding == "ascii":
        pointers.append(layout.utf8)
        lengths.append(layout.utf8_length)
    if encoding == "utf-32-le" and layout.wide is not None and layout.wide_length is not None:
        pointers.append(layout.wide)
        lengths.append(layout.wide_length)
    if not all(0 <= field <= layout.size - _WORD for field in (*pointers, *lengths)):
        raise NotMapped("a field would be outside the header of a string")
    return [field // _WORD for field in pointers], [field // _WORD for field in lengths]


def _map_file(descriptor: int, size: int, terminator_size: int) -> int:
    """Map a file of this size so that as many zeros as asked for can be read behind it. Never unmapped."""
    span = -(-(size + terminator_size) // mmap.PAGESIZE) * mmap.PAGESIZE
    start = _map_pages(None, span, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    _map_pages(start, size, mmap.PROT_READ, mmap.MAP_PRIVATE | _MAP_FIXED, descriptor)
    if ctypes.string_at(start + size, terminator_size) != bytes(terminator_size):
        raise NotMapped("a mapped file does not end in zeros")
    return start


def _map_pages(where: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    address: int = _libc.mmap(where, size, protection, flags, descriptor, 0)
    if address == _MAP_FAILED:
        raise NotMapped(f"mmap failed: {os.strerror(ctypes.get_errno())}")
    return address


def _passes_self_test(layout: Layout) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            faulthandler.disable()  # a crash in here is a finding
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (_SELF_TEST_CPU_S, _SELF_TEST_CPU_S))
            status = 0 if self_test(layout) else 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def self_test(layout: Layout) -> bool:
    """Whether texts of every width, laid over read-only memory, are like ordinary ones. May crash the process.

    Raises:
        NotMapped: strings are not laid out like that, or the operating system does not give the memory.
    """
    maker = TextMaker(layout)
    for encoding, sample in _SAMPLES.items():
        ordinary = (sample + " word, 17\n") * (mmap.PAGESIZE // 64)
        characters = ordinary.encode(encoding)
        size = len(characters) + WIDTHS[encoding]
        address = _map_pages(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        ctypes.memmove(address, characters, len(characters))
        if _libc.mprotect(address, size, mmap.PROT_READ) != 0:
            return False
        if differences(maker.text_at(address, len(ordinary), encoding), ordinary):
            return False
    return True


_OPERATIONS: dict[str, Callable[[str], Any]] = {
    "type": type,
    "length": len,
    "hash": hash,
    "slice": lambda text: (text[:5], text[3:-3], text[::7], text[-1:], text[len(text) // 2 :]),
    "iteration": lambda text: list(text[:100]) + [character for character in text if character == "\n"],
    "find": lambda text: (text.find("word"), text.rfind("17"), text.find("\0"), text.index(text[-1:])),
    "count": lambda text: (text.count("word"), text.count("\n"), text.count(text[:3])),
    "split": lambda text: (text.split(), text.splitlines(), text.partition("word"), text.rsplit(",", 2)),
    "replace": lambda text: (text.replace("word", "b"), text.replace("absent", "")),
    "case": lambda text: (text.upper(), text.title(), text.casefold(), text.isascii(), text.isprintable()),
    "whole": lambda text: (text[:], str(text), f"{text}", text.strip(), "".join([text]), text + "", text * 1),
    "concatenation": lambda text: (text + "x", "é" + text, text * 2, ",".join([text, text]), f"{text}€"),
    "encoding": lambda text: [text.encode(name, "replace") for name in ("utf-8", "utf-8", "ascii", "utf-16", "utf-32")],
    "regular expression": lambda text: (re.findall(r"w\w+", text), re.sub(r"\d+", "n", text), re.split(r"[,\n]", text)),
    "json": lambda text: (json.dumps(text), json.dumps({text: [text]}, ensure_ascii=False)),
    "pickle": lambda text: [pickle.loads(pickle.dumps(text, protocol)) for protocol in (0, 2, 5)],  # noqa: S301
    "wide characters": lambda text: ctypes.create_unicode_buffer(text).value,
    "repr": repr,
}


def differences(mapped: str, ordinary: str) -> list[str]:
    """Where a mapped text behaves unlike an ordinary one of the same characters; empty when nowhere."""
    found = [name for name, operation in _OPERATIONS.items() if operation(mapped) != operation(ordinary)]
    is_equal = mapped == ordinary and ordinary == mapped and mapped != ordinary + "x"
    is_ordered = mapped < ordinary + "x" and mapped <= ordinary and not mapped > ordinary
    is_same_key = {mapped: 1}.get(ordinary) == 1 and {ordinary: 1}.get(mapped) == 1 and len({mapped, ordinary}) == 1
    is_within = mapped in ordinary + "x" and ordinary in mapped and (ordinary + "x") not in mapped
    for name, holds in (("equality", is_equal), ("order", is_ordered), ("key", is_same_key), ("within", is_within)):
        if not holds:
            found.append(name)
    return found

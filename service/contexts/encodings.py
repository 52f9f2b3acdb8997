"""What text a file's bytes are: UTF-8, marked as UTF-16 or UTF-32, in a legacy encoding, or no text at all.

Everything becomes UTF-8 while it streams by. UTF-8 itself is kept byte for byte, its byte order mark too; the mark of
UTF-16 and UTF-32 only says how to read them and is not part of the text.
"""

import codecs
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import anyio.to_thread

from service.contexts.values import NotInEncoding
from service.errors import BadRequest

READ_BYTES = 1 << 20

_MARKS = (
    # UTF-32 first: in little-endian order its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\v\f\r\x1b")) + b"\x7f"
"""Bytes that text does not hold, in any encoding that extends ASCII. (Escape colours logs.)"""
_NO_TEXT = ("idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7")
"""Codecs that Python has and files are not in, or that a mail transport once needed."""

Origin = Literal["utf-8", "mark", "guess", "given"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a file's bytes are read."""

    name: str
    """As Python calls it."""
    origin: Origin

    def __str__(self) -> str:
        if self.origin == "guess":
            return f"{self.name}, guessed from its bytes"
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class NoText:
    """Why a file's bytes are not taken for text."""

    reason: Literal["binary", "undecided"]
    detail: str


UTF8 = Encoding(name="utf-8", origin="utf-8")
UTF8_MARKED = Encoding(name="utf-8-sig", origin="mark")
"""UTF-8 whose byte order mark must go, because JSON must not begin with one."""


def given_encoding(name: str) -> Encoding:
    """The encoding that a person names.

    Raises:
        BadRequest: there is none of this name.
    """
    try:
        found = codecs.lookup(name).name
        # Some codecs turn bytes into bytes; those Python refuses here.
        b"text".decode(name, "ignore")
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError):
        found = ""
    if not found or found.replace("_", "-") in _NO_TEXT:
        raise BadRequest(
            f"there is no text encoding {name[:40]!r}: try windows-1252, iso-8859-2, shift_jis or utf-16-le"
        )
    return UTF8 if found == UTF8.name else Encoding(name=found, origin="given")


def find_encoding(path: Path) -> Encoding | NoText:
    """Look at the whole file, once or twice. Blocking; raises `OSError`."""
    with path.open("rb") as file:
        head = file.read(4)
        for mark, name in _MARKS:
            if head.startswith(mark):
                return Encoding(name=name, origin="mark")
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        offset = 0
        for chunk in _chunks(file):
            nul = chunk.find(0)
            if nul >= 0:
                return NoText(reason="binary", detail=f"a zero byte at offset {offset + nul}")
            pending, _ = decoder.getstate()
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                return _legacy(file, f"no UTF-8 at offset {offset - len(pending) + error.start}")
            offset += len(chunk)
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return _legacy(file, "it ends within a UTF-8 character")
    return UTF8


def _legacy(file: BinaryIO, why: str) -> Encoding | NoText:
    # Imported for the rare file: it takes tens of milliseconds, which most commands need not wait for.
    from service.contexts.encoding_guess import SAMPLE_BYTES, guess  # noqa: PLC0415

    sample = bytearray()
    has_controls = False
    file.seek(0)
    for chunk in _chunks(file):
        # Reading on, because what stands later may show that it is no text after all.
        has_controls = has_controls or chunk.translate(None, _CONTROLS) != chunk
        if has_controls:
            return NoText(reason="binary", detail=f"{why}, and control characters")
        if len(sample) < SAMPLE_BYTES:
            for line in chunk.splitlines(keepends=True):
                if not line.isascii():
                    sample += line[: SAMPLE_BYTES - len(sample)]
                if len(sample) >= SAMPLE_BYTES:
                    break
    name = guess(bytes(sample))
    if name is None or not _is_wholly(file, name):
        return NoText(reason="undecided", detail=why)
    return Encoding(name=name, origin="guess")


def _is_wholly(file: BinaryIO, name: str) -> bool:
    """Whether the rest of the file can be read as the sample was."""
    decoder = codecs.getincrementaldecoder(name)()
    file.seek(0)
    try:
        for chunk in _chunks(file):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(READ_BYTES):
        yield chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Recoded:
    """Bytes in some encoding, as a source of UTF-8 text."""

    source: Path | AsyncIterator[bytes]
    encoding: Encoding
    tell: Callable[[str], None] = field(default=lambda _: None)
    """Told in one line, at the end, that the text is not what the bytes were."""

    @asynccontextmanager
    async def opened(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The text in UTF-8, a piece at a time.

        Raises:
            BadRequest: also while the text is taken: it cannot be read, or is not in this encoding.
        """
        if isinstance(self.source, Path):
            path = self.source
            try:
                file = await anyio.to_thread.run_sync(lambda: path.open("rb"))
            except OSError as error:
                raise BadRequest(f"{name}: cannot be read ({error.strerror})") from error
            with contextlib.closing(file):
                yield self._recoded(_read(file), name)
        else:
            yield self._recoded(self.source, name)

    async def _recoded(self, chunks: AsyncIterator[bytes], name: str) -> AsyncIterator[bytes]:
        decoder = codecs.getincrementaldecoder(self.encoding.name)()
        offset = 0

        def recode(chunk: bytes, *, final: bool = False) -> bytes:
            pending, _ = decoder.getstate()
            try:
                return decoder.decode(chunk, final).encode("utf-8")
            except UnicodeError as error:
                # Also half a surrogate pair, which UTF-16 can hold and text cannot: of it the place is not known.
                decoded = isinstance(error, UnicodeDecodeError)
                at = offset - len(pending) + error.start if isinstance(error, UnicodeDecodeError) else offset
                raise NotInEncoding(
                    f"{name}: expected text in {self.encoding.name}, found other bytes "
                    f"{'at' if decoded else 'near'} offset {at}",
                    data={"name": name, "offset": at},
                ) from error

        async for chunk in chunks:
            # In a thread: a chunk takes milliseconds, in some encodings tens of them.
            yield await anyio.to_thread.run_sync(recode, chunk)
            offset += len(chunk)
        if rest := recode(b"", final=True):
            yield rest
        if self.encoding.name != "utf-8-sig":  # of which only a mark is gone that nobody sees
            self.tell(f"{name}: converted to UTF-8 from {self.encoding}")


async def _read(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await anyio.to_thread.run_sync(file.read, READ_BYTES):
        yield chunk

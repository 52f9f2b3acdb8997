"""Encodings: recognised where the bytes tell, converted while they stream, refused otherwise."""

import codecs
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contexts.detection import TextFile, UnusableFile, look_at
from service.contexts.encodings import UTF8, Encoding, NoText, Recoded, find_encoding, given_encoding
from service.contexts.redis_contexts import Contexts
from service.errors import BadRequest
from tests.contexts.document_files import kept
from tests.store_fixture import Stored

GERMAN = "Die Größe des Gebäudes überraschte die Gäste; schöne Grüße aus München, wo es im März häufig regnet.\n"
FRENCH = "Le garçon a mangé des pâtes à l'hôtel près de la forêt, où l'été était très agréable cette année.\n"
POLISH = "Zażółć gęślą jaźń, proszę bardzo; dzisiaj w Łodzi pogoda była świetna i wszyscy byli zadowoleni.\n"
HUNGARIAN = "Árvíztűrő tükörfúrógép; a magyar nyelvben sok ékezetes betű van, például ő és ű a szavakban.\n"
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. Москва является столицей России.\n"
GREEK = "Η γρήγορη αλεπού πηδάει πάνω από το τεμπέλικο σκυλί στην Αθήνα.\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
CHINESE = "今天天气很好，我们去公园散步吧。这是一个关于北京的故事。\n"
KOREAN = "안녕하세요 오늘은 날씨가 매우 좋습니다 서울에서 만나요.\n"


async def recoded(path: Path, encoding: Encoding, told: list[str] | None = None) -> bytes:
    source = Recoded(source=path, encoding=encoding, tell=(told if told is not None else []).append)
    async with source.opened(path.name) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((GERMAN, name) for name in ("cp1252", "latin-1", "cp850", "utf-16", "utf-32")),
        *((FRENCH, name) for name in ("cp1252", "cp850", "mac_roman")),
        *((POLISH, name) for name in ("cp1250", "iso8859_2")),
        (HUNGARIAN, "cp1250"),
        *((RUSSIAN, name) for name in ("cp1251", "koi8_r", "cp866")),
        (GREEK, "cp1253"),
        (JAPANESE, "shift_jis"),
        (CHINESE, "gb18030"),
        (KOREAN, "euc_kr"),
    ],
)
def test_a_sentence_is_enough(tmp_path: Path, text: str, name: str) -> None:
    """An ordinary sentence in a usual encoding is read as it was written, or as a question, never as other letters."""
    path = kept(tmp_path, "a.txt", text.encode(name))
    found = find_encoding(path)
    assert isinstance(found, Encoding)
    assert anyio.run(recoded, path, found).decode() == text


@pytest.mark.parametrize("content", ["Größe", "21°C\n" * 100, "id,name\n1,José\n2,Zoë\n"])
def test_too_little_is_not_guessed(tmp_path: Path, content: str) -> None:
    """Where several encodings make text of the bytes, the question comes back and says how to answer it."""
    path = kept(tmp_path, "a.txt", content.encode("cp1252"))
    look = look_at(path)
    assert isinstance(look, UnusableFile)
    assert look.detail.endswith("its encoding could not be told: name it, such as windows-1252")
    assert anyio.run(recoded, path, given_encoding("windows-1252")).decode() == content


@given(st.text(alphabet=GERMAN + FRENCH + POLISH + RUSSIAN + GREEK, min_size=1, max_size=60), st.data())
def test_a_guess_is_never_silent_nonsense(
    tmp_path_factory: pytest.TempPathFactory, text: str, data: st.DataObject
) -> None:
    """Whatever is found can be read to its end, and what is UTF-8 is never taken for anything else."""
    name = data.draw(st.sampled_from(["utf-8", "cp1252", "cp1250", "cp1251", "cp1253", "koi8_r"]))
    path = kept(tmp_path_factory.getbasetemp(), "guessed", text.encode(name, "ignore") or b"x")
    found = find_encoding(path)
    if name == "utf-8":
        assert found == UTF8
    if isinstance(found, Encoding):
        assert path.read_bytes().decode(found.name)


@given(
    text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    name=st.sampled_from(["utf-16", "utf-32", "utf-16-le", "gb18030", "utf-8-sig"]),
    cuts=st.lists(st.integers(1, 7), min_size=1),
)
def test_any_text_comes_back_however_it_arrives(text: str, name: str, cuts: list[int]) -> None:
    """Conversion gives the same text whatever the pieces are in which the bytes arrive."""
    data = text.encode(name)

    async def pieces() -> AsyncIterator[bytes]:
        position, turn = 0, 0
        while position < len(data):
            size = cuts[turn % len(cuts)]
            yield data[position : position + size]
            position, turn = position + size, turn + 1

    async def converted() -> bytes:
        async with Recoded(source=pieces(), encoding=given_encoding(name)).opened("a") as chunks:
            return b"".join([chunk async for chunk in chunks])

    assert anyio.run(converted).decode() == text


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_kept_exactly_or_not_called_utf8(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """The finding UTF-8 means UTF-8 without zero bytes, and nothing else gets it."""
    found = find_encoding(kept(tmp_path_factory.getbasetemp(), "bytes", content))
    try:
        content.decode()
        is_utf8 = b"\0" not in content
    except UnicodeDecodeError:
        is_utf8 = False
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
    assert (found == UTF8) == (is_utf8 and not marked)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"abc\0def", "a zero byte at offset 3"),
        (GERMAN.encode("utf-16-le"), "a zero byte at offset 1"),
        (b"\x89PNG\r\n\x1a\n" + b"\xff\xd9" * 50, "no UTF-8 at offset 0, and control characters"),
        (GERMAN.encode("latin-1") * 40_000 + b"\x01\x02", "no UTF-8 at offset 6, and control characters"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, detail: str) -> None:
    """Zero bytes and control characters, wherever they stand, are not guessed away."""
    assert find_encoding(kept(tmp_path, "a", content)) == NoText(reason="binary", detail=detail)


def test_a_legacy_character_after_a_megabyte_is_found(tmp_path: Path) -> None:
    """The first lines of a file may be ASCII: what is unusual is looked for in the whole."""
    content = b"plain line\n" * 300_000 + GERMAN.encode("cp1252")
    assert find_encoding(kept(tmp_path, "a.log", content)) == Encoding(name="cp1252", origin="guess")


@pytest.mark.parametrize("name", ["hex", "rot13", "base64", "undefined", "unicode_escape", "nonsense", "", "a\0b"])
def test_what_is_no_text_encoding_is_refused(name: str) -> None:
    """Python's other codecs, and names of nothing, are refused with examples."""
    with pytest.raises(BadRequest, match="there is no text encoding"):
        given_encoding(name)


@pytest.mark.anyio
async def test_what_is_converted_is_told(tmp_path: Path) -> None:
    """A guess is told as one; a wrong name is refused with the place."""
    path = kept(tmp_path, "a.txt", GERMAN.encode("cp1252"))
    look = look_at(path)
    assert isinstance(look, TextFile)
    told: list[str] = []
    await recoded(path, look.encoding, told)
    assert told == ["a.txt: converted to UTF-8 from cp1252, guessed from its bytes"]
    with pytest.raises(BadRequest, match=r"expected text in euc_jp, found other bytes at offset 6"):
        await recoded(path, given_encoding("euc-jp"))


@pytest.mark.anyio
async def test_json_loses_its_mark_and_text_keeps_it(stored: Stored, tmp_path: Path) -> None:
    """JSON that Windows wrote is JSON, in UTF-8 or UTF-16; a text is kept with its first character."""
    contexts = Contexts(stored.store, stored.blobs, stored.tenant)
    for name, content in [
        ("a.json", codecs.BOM_UTF8 + b'{"a": 1}'),
        ("b.json", '{"a": 1}'.encode("utf-16")),
        ("c.jsonl", codecs.BOM_UTF8 + b'{"a": 1}\r\n'),
    ]:
        path = kept(tmp_path, name, content)
        look = look_at(path)
        assert isinstance(look, TextFile)
        context = await contexts.put(name, look.kind, Recoded(source=path, encoding=look.encoding))
        assert (context.length, context.preview[:8]) == (1, '{"a": 1}')
    path = kept(tmp_path, "d.txt", codecs.BOM_UTF8 + b"x")
    assert look_at(path) == TextFile(kind="text", encoding=UTF8)
    assert (await contexts.put("d.txt", "text", path)).preview == "\ufeffx"


@pytest.mark.anyio
async def test_the_same_text_is_one_context_whatever_it_was_written_in(stored: Stored, tmp_path: Path) -> None:
    """What counts is the text: its digest is the same from UTF-8 and from windows-1252."""
    contexts = Contexts(stored.store, stored.blobs, stored.tenant)
    first = await contexts.put("a.txt", "text", kept(tmp_path, "a.txt", GERMAN.encode()))
    legacy = Recoded(source=kept(tmp_path, "b.txt", GERMAN.encode("cp1252")), encoding=given_encoding("cp1252"))
    assert await contexts.put("a.txt", "text", legacy) == first


def test_conversion_takes_no_memory_of_the_size_of_the_file(tmp_path: Path) -> None:
    """A quarter of a gigabyte of Latin-1 is looked at and converted within a few megabytes of memory."""
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        for _ in range(256):
            file.write((GERMAN.encode("latin-1") * 10_600)[: 1 << 20])
    program = """
        import resource, sys
        from pathlib import Path
        import anyio
        from service.contexts.encodings import Encoding, Recoded, find_encoding

        async def convert(path):
            size = 0
            async with Recoded(source=path, encoding=find_encoding(path)).opened("a") as chunks:
                async for chunk in chunks:
                    size += len(chunk)
            return size

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

        small = Path(sys.argv[1]).with_name("small.txt")
        small.write_bytes(Path(sys.argv[1]).open("rb").read(4 << 20))
        anyio.run(convert, small)
        before = peak()
        size = anyio.run(convert, Path(sys.argv[1]))
        print(size >> 20, peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], capture_output=True, text=True, check=True
    )
    size_mib, growth_mib = map(int, done.stdout.split())
    assert size_mib >= 256
    assert growth_mib <= 16

"""In which legacy encoding bytes are that are neither UTF-8 nor marked: told when the bytes tell, and only then.

charset-normalizer says which encodings make plausible text of the bytes. Among relatives that is often several: every
byte is a letter in each, and "õ" for "ő" looks no worse to it. So a reading in Latin script must also be spelled with
the letters of one language; what is then still ambiguous is not guessed. A wrong guess would be found by nobody,
a question back costs a minute.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from charset_normalizer import from_bytes

SAMPLE_BYTES = 64 << 10

_TIDY = 0.1
"""The highest `chaos` of a reading that is considered."""
_NO_WORSE = 0.03
_LANGUAGE_SEEN = 0.2
"""The lowest `coherence` (letters as frequent as in some language) of a reading in a one-byte encoding."""
_NO_LESS_SEEN = 0.02
_MOST_STRAY_LETTERS = 0.02
_LEAST_WIDE_CHARACTERS = 8

_NATIVE_SHARE = {"cp932": 0.2, "euc_jp": 0.2, "gb18030": 0.6, "big5": 0.6, "cp949": 0.5}
"""Of the characters beyond ASCII, how many are kana, Chinese characters or Korean syllables in a real text."""
_WIDE = tuple(_NATIVE_SHARE)
_CANDIDATES = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874"),
    *("koi8_r", "iso8859_2", "iso8859_5", "iso8859_7", "cp866", "cp850", "mac_roman"),
    *_WIDE,
)
"""Those in real use; of readings that are the same text the first gives its name."""

_ALPHABETS = tuple(
    frozenset(letters + letters.upper())
    for letters in (
        "äöüß",  # German
        "àâæçéèêëîïôœùûüÿ",  # French
        "áéíñóúüçàèïò",  # Spanish, Catalan
        "ãáàâçéêíõóôú",  # Portuguese
        "àèéìíîòóùú",  # Italian
        "åäöéæøü",  # Swedish, Danish, Norwegian, Finnish
        "áæéíðóöþúý",  # Icelandic
        "áéëèïíóöúü",  # Dutch
        "äõöüšž",  # Estonian
        "ąćęłńóśźż",  # Polish
        "áčďéěíňóřšťúůýžäôĺľŕ",  # Czech, Slovak
        "áéíóöőúüű",  # Hungarian
        "čćđšž",  # Croatian, Slovene
        "ăâîșțşţ",  # Romanian
        "âçğıiîöşüûİ",  # Turkish
        "ąčęėįšųūž",  # Lithuanian
        "āčēģīķļņšūž",  # Latvian
    )
)
_LATIN = frozenset("".join("".join(alphabet) for alphabet in _ALPHABETS))
_BESIDE_LETTERS = frozenset("\u00a0\u00ad«»„“”‚‘’…–—•·°§©®™€£¿¡ªº№")
"""What stands in texts of every language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    encoding: str
    text: str
    chaos: float
    coherence: float


def guess(sample: bytes) -> str | None:
    """The encoding that the sample is in, by the name Python has for it; None when it cannot be told."""
    tidy = [reading for reading in _readings(sample) if reading.chaos <= _TIDY and _is_credible(reading)]
    if not tidy:
        return None
    least = min(reading.chaos for reading in tidy)
    tidy = [reading for reading in tidy if reading.chaos <= least + _NO_WORSE]
    most = max(reading.coherence for reading in tidy)
    best = [reading for reading in tidy if reading.coherence >= most - _NO_LESS_SEEN]
    if len({reading.text for reading in best}) > 1:
        return None
    return min(best, key=lambda reading: _CANDIDATES.index(reading.encoding)).encoding


def _readings(sample: bytes) -> Iterable[_Reading]:
    for match in from_bytes(sample, cp_isolation=list(_CANDIDATES), enable_fallback=False):
        text = str(match)
        for same in (match, *match.submatch):
            if same.encoding in _CANDIDATES:
                yield _Reading(encoding=same.encoding, text=text, chaos=same.chaos, coherence=same.coherence)


def _is_credible(reading: _Reading) -> bool:
    foreign = [character for character in reading.text if character > "\x7f"]
    if reading.encoding in _WIDE:
        native = [character for character in foreign if _is_native(character, reading.encoding)]
        enough = len(foreign) * _NATIVE_SHARE[reading.encoding]
        return len(set(native)) >= _LEAST_WIDE_CHARACTERS and len(native) >= enough
    if reading.coherence < _LANGUAGE_SEEN:
        return False
    letters = [character for character in foreign if character not in _BESIDE_LETTERS]
    if not any(letter in _LATIN for letter in letters):
        # Not of Latin script, whose languages charset-normalizer tells apart; or without a letter beyond ASCII.
        return all(letter.isalpha() for letter in letters)
    stray = min(sum(letter not in alphabet for letter in letters) for alphabet in _ALPHABETS)
    return stray <= len(letters) * _MOST_STRAY_LETTERS


def _is_native(character: str, encoding: str) -> bool:
    match encoding:
        case "gb18030" | "big5":
            return "\u4e00" <= character <= "\u9fff"
        case "cp949":
            # Korean is written with 2,350 of the 11,172 syllables that the encoding has; euc_kr spells out the others.
            return "\uac00" <= character <= "\ud7a3" and len(character.encode("euc_kr")) == 2
        case _:
            return "\u3041" <= character <= "\u30fe"

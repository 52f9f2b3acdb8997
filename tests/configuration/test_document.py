"""Where things stand in a TOML file."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.configuration.document import Document

TEXT = '''# head
[models."a.b"] # comment
one = 1
two = """
three = 3
[models.c]
"""
nested = { four = 4, five.six = 6 }
list = [
  1, # one
  2,
]
[models.'c']
"quoted key" = 7
dotted.key = 8
[[models.d]]
nine = 9
ten = [ "]", \'\'\'
[\'\'\'\',
  """ \\""" [
""""" ]
eleven = { a = "# {" }
twelve = 12 # }
thirteen = 13
'''


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("models",), 2),
        (("models", "a.b"), 2),
        (("models", "a.b", "one"), 3),
        (("models", "a.b", "two"), 4),
        (("models", "a.b", "three"), 2),
        (("models", "a.b", "nested"), 8),
        (("models", "a.b", "nested", "five", "six"), 8),
        (("models", "a.b", "list"), 9),
        (("models", "c"), 13),
        (("models", "c", "quoted key"), 14),
        (("models", "c", "dotted", "key"), 15),
        (("models", "d", "nine"), 17),
        (("models", "d", "ten"), 18),
        (("models", "d", "eleven"), 22),
        (("models", "d", "twelve"), 23),
        (("models", "d", "thirteen"), 24),
        (("models", "e"), 2),
        (("elsewhere",), None),
        ((), None),
    ],
)
def test_every_key_has_its_line(keys: tuple[str, ...], line: int | None, line_end: str) -> None:
    """However a key is spelled its line is found; what has none is where its table is."""
    text = TEXT.replace("\n", line_end)
    document = Document(Path("file.toml"), text, tomllib.loads(text))
    assert document.place(keys) == ("file.toml" if line is None else f"file.toml, line {line}")


KEYS = st.text("abc .\"'é", min_size=1, max_size=4)
VALUES = st.sampled_from(["1", '"x = 1"', "[1,\n 2]", '"""\n[a]\nb = 1\n"""', "{ c = 1 }", "'[t]'"])


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), max_size=4), st.booleans())
def test_any_file_is_walked(tables: dict[str, dict[str, str]], comments: bool) -> None:
    """For every file the places are those at which the keys were written."""
    rows: list[str] = []
    written: dict[tuple[str, ...], int] = {}
    for table, pairs in tables.items():
        rows += ["# [no]"] if comments else []
        rows.append(f"[{_quoted(table)}]")
        written[(table,)] = len(rows)
        for key, value in pairs.items():
            written[(table, key)] = len(rows) + 1
            rows += f"{_quoted(key)} = {value}".split("\n")
    text = "\n".join(rows)
    document = Document(Path("f"), text, tomllib.loads(text))
    assert {keys: document.place(keys) for keys in written} == {keys: f"f, line {at}" for keys, at in written.items()}


@pytest.mark.parametrize("piece", ["  1, # [\n", "  {},\n", '"""a\n]""",\n', "'''b\n''',\n"])
def test_a_long_value_is_walked_once(piece: str) -> None:
    """However many lines a value has, what stands behind it is found in time linear in them."""
    text = f"[models.a]\nlist = [\n{piece * (400_000 // len(piece))}]\nlast = 1\n"
    document = Document(Path("f"), text, {})
    assert document.place(("models", "a", "last")) == f"f, line {text.count(chr(10))}"


def _quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'

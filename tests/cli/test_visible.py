"""Hostile text on its way to a terminal."""

from hypothesis import given
from hypothesis import strategies as st

from service.cli.visible import visible_line, visible_text

anything = st.text(st.characters(), max_size=300)
"""Surrogates included: a model can make them."""


@given(anything)
def test_nothing_unprintable_survives_in_a_line(text: str) -> None:
    """Whatever a model writes, a line of progress holds printable characters only and no newline."""
    assert visible_line(text).isprintable()


@given(anything, st.integers(1, 200))
def test_a_line_is_never_wider_than_asked(text: str, width: int) -> None:
    """Escaping lengthens text, and still the cut line keeps its width."""
    assert len(visible_line(text, width)) <= width


@given(anything)
def test_several_lines_keep_their_newlines_and_nothing_else(text: str) -> None:
    """An answer shown on a terminal has the lines it had."""
    shown = visible_text(text)
    assert shown.count("\n") == text.count("\n")
    assert shown.replace("\n", "").isprintable()


def test_escape_sequences_become_readable() -> None:
    """A sequence that would clear the screen, and one that would reverse what is read, are shown as escapes."""
    assert visible_line("\x1b[2Jgone \u202eexe.txt\r\x9b1m") == "\\x1b[2Jgone \\u202eexe.txt\\r\\x9b1m"


def test_ordinary_text_is_left_alone() -> None:
    """Accents, ideographs and emoji are not what terminals obey."""
    assert visible_line("Größe 大 🎉") == "Größe 大 🎉"

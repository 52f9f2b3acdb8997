"""Text of models and files made safe to show: what a terminal would obey becomes something to read.

Model output is hostile. An escape sequence in it can retitle the window, move the cursor over an earlier line or
reorder what a person believes they read (bidirectional overrides), so nothing unprintable reaches a terminal raw.
"""

TAB = "    "


def visible_line(text: str, width: int | None = None) -> str:
    """One line, every unprintable character (newlines too) written as an escape, cut to `width` characters."""
    # Escaping only lengthens, so no more than `width` characters can matter.
    shown = "".join(_shown(character) for character in (text if width is None else text[: width + 1]))
    if width is not None and len(shown) > width:
        return shown[: max(width - 1, 0)] + "…"
    return shown


def visible_text(text: str) -> str:
    """Several lines: newlines stay, everything else as in `visible_line`."""
    return "\n".join(visible_line(line) for line in text.split("\n"))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if character == "\t":
        return TAB
    return character.encode("unicode_escape").decode("ascii")

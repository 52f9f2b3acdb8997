"""The four encodings that CPython holds a text in, and which of them is the narrowest for one.

The standard library only: the process that parses JSON starts with it.
"""

from typing import Final

from sandbox_image.protocol import ImageEncoding

WIDTHS: Final[dict[ImageEncoding, int]] = {"ascii": 1, "latin-1": 1, "utf-16-le": 2, "utf-32-le": 4}
"""Bytes a character."""


def narrowest(text: str, beside: ImageEncoding = "ascii") -> ImageEncoding:
    """The narrowest encoding that holds a piece of text, and whatever `beside` holds."""
    if beside == "utf-32-le" or text.isascii():
        return beside
    if beside != "utf-16-le":
        try:
            text.encode("latin-1")
        except UnicodeEncodeError:
            pass
        else:
            return "latin-1"
    return "utf-16-le" if len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text) else "utf-32-le"

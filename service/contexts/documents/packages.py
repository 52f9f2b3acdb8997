"""Office files are ZIP packages: looked at before a library unpacks one."""

import zipfile
from typing import BinaryIO

from service.contexts.documents.text_writer import Unreadable

MOST_UNPACKED_BYTES = 2 << 30
MOST_MEMBERS = 50_000

_COMPOUND_MARK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Of Office's older container, which is also what an encrypted newer file comes in."""


def check_package(document: BinaryIO, *, may_be_compound: bool = False) -> None:
    """Refuse what would unpack to far more than it is.

    Raises:
        Unreadable: no ZIP archive, protected by a password, or a bomb.
    """
    mark = document.read(len(_COMPOUND_MARK))
    document.seek(0)
    if mark == _COMPOUND_MARK:
        if may_be_compound:
            return
        raise Unreadable("is protected by a password, or of an older Office: save it anew, without a password")
    try:
        with zipfile.ZipFile(document) as package:
            members = package.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise Unreadable("is damaged, or not what its name says (no Office package)") from None
    unpacked = sum(member.file_size for member in members)
    if unpacked > MOST_UNPACKED_BYTES or len(members) > MOST_MEMBERS:
        raise Unreadable(
            f"unpacks to {unpacked:,} bytes in {len(members):,} files, where {MOST_UNPACKED_BYTES:,} bytes "
            f"in {MOST_MEMBERS:,} files are allowed"
        )
    document.seek(0)

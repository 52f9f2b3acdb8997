"""Which image sandboxes may be started from: its labels, against what this service was shipped with. Pure but for
reading our own sources.

`deploy/make_sandbox_image.sh` writes the labels. The rule: an image made for another wire format, or one that does not
say, is refused; one made from other sources for the same format works, lacks what was mended since, and is told of.
"""

import hashlib
from enum import StrEnum
from functools import cache
from pathlib import Path

from sandbox_image import protocol

LABEL_PROTOCOL = "rlm.image.protocol"
LABEL_SOURCES = "rlm.image.sources"


class ImageAge(StrEnum):
    """How an image stands to this service."""

    CURRENT = "current"
    OTHER_SOURCES = "other_sources"
    OTHER_PROTOCOL = "other_protocol"
    UNKNOWN = "unknown"
    """It bears no label of ours."""

    @property
    def is_usable(self) -> bool:
        return self in (ImageAge.CURRENT, ImageAge.OTHER_SOURCES)


def image_age(image_protocol: str, image_sources: str) -> ImageAge:
    """By its labels; an empty one is not there."""
    if not image_protocol:
        return ImageAge.UNKNOWN
    if image_protocol != str(protocol.PROTOCOL_VERSION):
        return ImageAge.OTHER_PROTOCOL
    return ImageAge.CURRENT if image_sources == our_sources() else ImageAge.OTHER_SOURCES


def complaint(name: str, age: ImageAge) -> str | None:
    """What is to be said of an image, and what to do; None of a current one."""
    again = f"make it anew as it was made, with `sh deploy/make_sandbox_image.sh {name} [full] [PACKAGE...]`"
    match age:
        case ImageAge.CURRENT:
            return None
        case ImageAge.OTHER_SOURCES:
            what = "was made from other sources than this service comes with, and may lack what was mended since"
        case ImageAge.OTHER_PROTOCOL:
            what = "was made for another version of the service, which speaks otherwise with its sandboxes"
        case ImageAge.UNKNOWN:
            what = "is none of this service's, by its labels"
            again = "make one with `sh deploy/make_sandbox_image.sh rlm-sandbox`, and name that in RLM_DOCKER_IMAGE"
    return f"the image {name} {what}: {again}"


@cache
def our_sources() -> str:
    """The digest of `sandbox_image` as it lies beside us; what `sha256sum *.py | sha256sum` says in that directory."""
    return sources_digest(Path(protocol.__file__).parent)


def sources_digest(package: Path) -> str:
    """Of a package's own files, by name and content."""
    lines = (
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(package.glob("*.py"), key=lambda file: file.name)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()

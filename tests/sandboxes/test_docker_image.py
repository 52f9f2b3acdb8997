"""Which image sandboxes may be started from."""

import subprocess
from pathlib import Path

import pytest

from sandbox_image import protocol
from service.sandboxes.docker_image import ImageAge, complaint, image_age, our_sources, sources_digest
from tests.machine import ROOT, SANDBOX_IMAGE
from tests.sandboxes.docker_machine import build_image, engine

CURRENT = str(protocol.PROTOCOL_VERSION)


@pytest.mark.parametrize(
    ("image_protocol", "image_sources", "age", "is_usable"),
    [
        (CURRENT, our_sources(), ImageAge.CURRENT, True),
        (CURRENT, "f" * 64, ImageAge.OTHER_SOURCES, True),
        (CURRENT, "", ImageAge.OTHER_SOURCES, True),
        ("0", our_sources(), ImageAge.OTHER_PROTOCOL, False),
        ("x", "", ImageAge.OTHER_PROTOCOL, False),
        ("", our_sources(), ImageAge.UNKNOWN, False),
    ],
)
def test_the_rule(image_protocol: str, image_sources: str, age: ImageAge, is_usable: bool) -> None:
    """Another wire format or no label is refused, other sources are told of, and both with what to do."""
    assert image_age(image_protocol, image_sources) is age
    assert age.is_usable is is_usable
    said = complaint("an/image:1", age)
    if age is ImageAge.CURRENT:
        assert said is None
        return
    assert said is not None
    # What is not ours is somebody's, and is not to be overwritten.
    name = "rlm-sandbox" if age is ImageAge.UNKNOWN else "an/image:1"
    assert f"make_sandbox_image.sh {name}" in said


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    """It is what the shell says, and another as soon as a file is changed or renamed."""
    (tmp_path / "b.py").write_text("1")
    (tmp_path / "a.py").write_text("2")
    shell = "LC_ALL=C sha256sum -- *.py | sha256sum | cut -d ' ' -f 1"
    said = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    first = sources_digest(tmp_path)
    assert said == first + "\n"
    (tmp_path / "a.py").write_text("3")
    second = sources_digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert len({first, second, sources_digest(tmp_path)}) == 3


@pytest.mark.needs_docker
def test_an_image_says_what_it_was_made_from() -> None:
    """The script's image is current for the checkout that it was made in, and names its base."""
    build_image()
    with engine() as client:
        labels = client.inspect_image(SANDBOX_IMAGE)["Config"]["Labels"]  # type: ignore[no-untyped-call]
    assert image_age(labels["rlm.image.protocol"], labels["rlm.image.sources"]) is ImageAge.CURRENT
    assert labels["rlm.image.base"]
    assert sources_digest(ROOT / "sandbox_image") == labels["rlm.image.sources"]

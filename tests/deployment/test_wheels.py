"""Which wheels an image is built from where its build reaches no index."""

import importlib.util
from types import ModuleType

import pytest

from tests.machine import ROOT


@pytest.fixture(scope="module")
def fetch_wheels() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("fetch_wheels", ROOT / "deploy/fetch_wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("python", "soupsieve", "numpy"),
    [("3.11.2", "2.10", "2.4.6"), ("3.11.7", "4.1.1", "2.4.6"), ("3.12.4", "4.1.1", "2.5.5")],
)
def test_conditions_are_those_of_the_base(fetch_wheels: ModuleType, python: str, soupsieve: str, numpy: str) -> None:
    """What is fetched follows the Python of the base image, whichever Python fetches; each comes once, by hash."""
    markers = {"python_full_version": python, "python_version": python.rpartition(".")[0], "sys_platform": "linux"}
    pinned = (ROOT / "deploy/sandbox-packages.txt").read_text()
    chosen = [
        fetch_wheels.without_condition(entry)
        for entry in fetch_wheels.entries(pinned)
        if fetch_wheels.applies(entry, markers)
    ]
    versions = dict(entry.split()[0].split("==") for entry in chosen)
    assert len(versions) == len(chosen)
    assert (versions["soupsieve"], versions["numpy"]) == (soupsieve, numpy)
    assert all(";" not in entry and "--hash=sha256:" in entry for entry in chosen)


def test_wheels_link_to_no_newer_library_than_the_base_has(fetch_wheels: ModuleType) -> None:
    """The newest tag is that of the base's own C library, and older ones follow in falling order."""
    tags = list(fetch_wheels.platforms("x86_64", 2, 36))
    assert tags[:2] == ["manylinux_2_36_x86_64", "manylinux_2_35_x86_64"]
    assert tags[-3:] == ["manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64"]

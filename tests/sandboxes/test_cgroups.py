"""What a container has used, read from Linux's own files."""

from pathlib import Path

import pytest

from service.sandboxes.launcher.cgroups import usage_of
from service.sandboxes.launcher.usage import Usage

CONTAINER = "c0ffee" * 10 + "1234"
V1 = {
    f"groups/memory/docker/{CONTAINER}/memory.usage_in_bytes": "1000\n",
    f"groups/memory/docker/{CONTAINER}/memory.max_usage_in_bytes": "5000\n",
    f"groups/cpuacct/docker/{CONTAINER}/cpuacct.usage": "2500000000\n",
    f"groups/pids/docker/{CONTAINER}/pids.current": "7\n",
    "processes/42/cgroup": "".join(
        f"{number}:{names}:/docker/{CONTAINER}\n" for number, names in enumerate(("memory", "cpu,cpuacct", "pids"))
    ),
}
V2_GROUP = f"system.slice/docker-{CONTAINER}.scope"
V2 = {
    f"groups/{V2_GROUP}/memory.current": "1000\n",
    f"groups/{V2_GROUP}/memory.peak": "5000\n",
    f"groups/{V2_GROUP}/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
    f"groups/{V2_GROUP}/pids.current": "7\n",
    "processes/42/cgroup": f"0::/{V2_GROUP}\n",
}
USED = Usage(memory_bytes=1000, memory_peak_bytes=5000, cpu_s=2.5, processes=7)


def measured(directory: Path, files: dict[str, str], container_id: str = CONTAINER) -> Usage | None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return usage_of(42, container_id, processes=directory / "processes", groups=directory / "groups")


V1_BESIDE_V2 = V1 | {"processes/42/cgroup": V1["processes/42/cgroup"] + f"0::/docker/{CONTAINER}\n"}


@pytest.mark.parametrize("files", [V1, V2, V1_BESIDE_V2], ids=["v1", "v2", "v1 beside v2"])
def test_both_kinds_of_control_groups_are_read(tmp_path: Path, files: dict[str, str]) -> None:
    """Memory now and at most, CPU in seconds, processes: from whichever kind Linux has."""
    assert measured(tmp_path, files) == USED


def test_where_no_peak_is_told_it_is_what_is_used_now(tmp_path: Path) -> None:
    """Linux before 5.19 has no peak of a v2 group."""
    without = {name: text for name, text in V2.items() if not name.endswith("peak")}
    found = measured(tmp_path, without)
    assert found is not None
    assert found.memory_peak_bytes == 1000


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_another_ones_process_is_not_taken_for_the_containers(tmp_path: Path, files: dict[str, str]) -> None:
    """A pid that is somebody else's in this namespace tells nothing, and neither does one that is not there."""
    assert measured(tmp_path, files, "d0d0" * 16) is None
    assert usage_of(43, CONTAINER, processes=tmp_path / "processes", groups=tmp_path / "groups") is None


@pytest.mark.parametrize("missing", [name for name in V1 if name.startswith("groups")])
def test_what_cannot_be_read_whole_is_not_told_at_all(tmp_path: Path, missing: str) -> None:
    """Half a measurement is none."""
    assert measured(tmp_path, {name: text for name, text in V1.items() if name != missing}) is None
    assert measured(tmp_path / "again", V1 | {missing: "many\n"}) is None

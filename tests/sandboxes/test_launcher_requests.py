"""What may be asked of the launcher, and what it decides without asking anybody."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.sandboxes.launcher.bounds import Bounds
from service.sandboxes.launcher.protocol import (
    REQUEST,
    Request,
    StartRequest,
)
from service.sandboxes.launcher.reconciling import FoundContainer, pause_s, to_remove
from service.sandboxes.launcher.server import MAX_CONNECTIONS, OTHER_FILES, most_connections
from service.sandboxes.launcher.uids import Uids

GOOD: dict[str, Any] = {
    "op": "start",
    "sandbox_id": "sbx_" + "0" * 32,
    "owner_key": "0" * 64,
    "image": "rlm-sandbox",
    "runtime": "runc",
    "memory_bytes": 512 << 20,
    "tmp_bytes": 32 << 20,
    "processes": 32,
    "open_files": 256,
    "file_bytes": 1 << 20,
    "hash_seed": 0,
    "life_s": 60,
}


@pytest.mark.parametrize(
    "change",
    [
        {"sandbox_id": "sbx_" + "0" * 31 + "/"},
        {"sandbox_id": "../../etc"},
        {"sandbox_id": "sbx_" + "0" * 32 + "\n"},
        {"owner_key": ""},
        {"owner_key": "0" * 63 + "G"},
        {"image": "-v/:/host"},
        {"image": "a b"},
        {"runtime": "kata"},
        {"runtime": "io.containerd.runc.v2"},
        {"memory_bytes": 0},
        {"memory_bytes": "1073741824"},
        {"memory_bytes": True},
        {"processes": -1},
        {"processes": 10**9},
        {"life_s": 10**9},
        {"privileged": True},
        {"mounts": ["/:/host"]},
        {"HostConfig": {"Privileged": True}},
    ],
)
def test_a_template_is_closed(change: dict[str, Any]) -> None:
    """Unknown fields, other types, strange names and values out of range are no request."""
    REQUEST.validate_json(json.dumps(GOOD))
    with pytest.raises(ValidationError):
        REQUEST.validate_json(json.dumps(GOOD | change))


def test_what_may_be_asked_is_pinned() -> None:
    """Every field that a client may send, request by request; one more would be a way around the profile."""
    of_one = {"sandbox_id", "owner_key"}
    limits = {"memory_bytes", "tmp_bytes", "processes", "open_files", "file_bytes", "hash_seed", "life_s"}
    requests = get_args(get_args(Request)[0])
    assert {each.model_fields["op"].default: each.model_fields.keys() - {"op"} for each in requests} == {
        "start": of_one | {"image", "runtime"} | limits,
        **dict.fromkeys(("attach", "kill", "pause", "unpause", "stats"), of_one),
        "reap": {"sandbox_id"},
        "capabilities": set(),
    }
    for each in requests:
        assert (each.model_config["extra"], each.model_config["strict"]) == ("forbid", True)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_nothing_else_is_a_request(value: Any) -> None:
    """Of all JSON values, none that was not written for the launcher is taken for a request."""
    with pytest.raises(ValidationError):
        REQUEST.validate_json(json.dumps(value))


containers = st.builds(
    FoundContainer,
    container_id=st.uuids().map(str),
    sandbox_id=st.sampled_from("abcd"),
    uid=st.none(),
    owner=st.just(""),
    runs=st.booleans(),
    deadline_s=st.integers(0, 100),
)


@given(
    st.lists(containers),
    st.frozensets(st.sampled_from("abcd")),
    st.frozensets(st.sampled_from("abcd")),
    st.integers(0, 100),
)
def test_what_must_go(found: list[FoundContainer], starting: frozenset[str], orphans: frozenset[str], now: int) -> None:
    """A container stays exactly when it is being started, or runs, has time left and an owner."""
    removed = to_remove(found, starting=starting, orphans=orphans, now_s=now)
    for container in found:
        stays = container.runs and container.deadline_s > now and container.sandbox_id not in orphans
        assert (container in removed) == (not stays and container.sandbox_id not in starting)


@given(st.integers(1, 1 << 40))
def test_connections_leave_files_for_everything_else(open_files: int) -> None:
    """However few files may be open, some connections are served, and not all files are spent on them."""
    most = most_connections(open_files)
    assert 1 <= most <= MAX_CONNECTIONS
    assert most < open_files or open_files == 1
    assert most <= open_files // 2 or most <= open_files - OTHER_FILES or open_files == 1


@given(st.integers(0, 10_000))
def test_an_engine_that_fails_is_left_alone_longer_and_longer(failures: int) -> None:
    """There is always a pause of at least a second, never one of more than half a minute, and none is shorter than the
    one before."""
    assert 1.0 <= pause_s(failures) <= pause_s(failures + 1) <= 30.0


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"images": ("other",)}, "may start other"),
        ({"runtimes": ("runsc",)}, "more --runtime"),
        ({"memory_bytes": 511 << 20}, "--max-memory-mb is 511, found a request for 512 MB"),
        ({"tmp_bytes": 31 << 20}, "--max-tmp-mb"),
        ({"sandboxes": 3}, "--max-sandboxes"),
    ],
)
def test_the_operators_bounds_hold_whatever_the_client_asks(bounds: dict[str, Any], says: str) -> None:
    """What is past a bound is refused by a sentence that names the bound; what just meets it is not."""
    request = StartRequest(**GOOD)
    meets = Bounds(images=("rlm-sandbox",), memory_bytes=512 << 20, tmp_bytes=32 << 20, sandboxes=4)
    assert meets.refusal(request, sandboxes=3) is None
    refusal = Bounds(**{"images": ("rlm-sandbox",)} | bounds).refusal(request, sandboxes=3)
    assert refusal is not None
    assert says in refusal


@given(st.lists(st.booleans(), max_size=60))
def test_no_two_sandboxes_hold_one_uid(takes: list[bool]) -> None:
    """Whatever is taken and released in whatever order, a uid has one holder, and only a full range is refused."""
    uids, held = Uids(range(100, 108)), set[int]()
    for take in takes:
        if take and len(held) == 8:
            with pytest.raises(LookupError):
                uids.take()
        elif take:
            uid = uids.take()
            assert uid not in held
            held.add(uid)
        elif held:
            uids.release(held.pop())

"""What the store still refers to, wherever it stands."""

import hashlib
import json
from pathlib import Path

import pytest

from service.ids import TenantId, new_id
from service.store.blob_references import VALUES_AT_ONCE, References, Suspects, digests_in
from service.store.blobs import Blobs
from service.store.bodies import INLINE_BYTES, Bodies
from service.store.connection import Command
from service.store.keys import Keys
from service.store.segments import Segment, sealed_key
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def suspects_of(blobs: Blobs, *names: str) -> Suspects:
    return Suspects(blobs=blobs, digests={bytes.fromhex(digest_of(name)) for name in names})


def left(suspects: Suspects, *names: str) -> set[str]:
    return {name for name in names if bytes.fromhex(digest_of(name)) in suspects.digests}


MANY = 3 * VALUES_AT_ONCE + 1

V = "v" * 100

SHAPES: dict[str, list[Command]] = {
    "a string": [("SET", "KEY", "=" + json.dumps({"sha256": digest_of("x")}))],
    "the name of a key": [("SET", "KEY:" + digest_of("x"), "1")],
    "a hash of many": [*[("HSET", "KEY", f"f{n}", V) for n in range(MANY)], ("HSET", "KEY", "f", digest_of("x"))],
    "a field's name": [("HSET", "KEY", digest_of("x"), "1")],
    "a list of many": [*[("RPUSH", "KEY", f"v{n}") for n in range(MANY)], ("RPUSH", "KEY", digest_of("x"))],
    "a set of many": [*[("SADD", "KEY", f"{V}{n}") for n in range(MANY)], ("SADD", "KEY", digest_of("x"))],
    "a sorted set of many": [
        *[("ZADD", "KEY", n, f"{V}{n}") for n in range(MANY)],
        ("ZADD", "KEY", 7, digest_of("x")),
    ],
    "a stream of many": [
        *[("XADD", "KEY", f"{n}-0", "e", "v") for n in range(1, MANY)],
        ("XADD", "KEY", f"{MANY}-0", "e", f"@{digest_of('x')}:70000"),
    ],
    "a JSON text in a JSON text": [("SET", "KEY", json.dumps(json.dumps({"file": digest_of("x")})))],
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_digest_is_found_wherever_it_stands(stored: Stored, shape: str) -> None:
    """In every kind of value, small and large, and in names; what is not there stays a suspect."""
    key = Keys(stored.tenant)("some", "key")
    for command in SHAPES[shape]:
        await stored.store.write(*(part.replace("KEY", key) if isinstance(part, str) else part for part in command))
    suspects = suspects_of(stored.blobs, "x", "y")
    await References(stored.store, lambda _: False).strike_out({stored.tenant: suspects})
    assert left(suspects, "x", "y") == {"y"}


async def test_a_large_body_keeps_itself_and_what_it_names(stored: Stored) -> None:
    """What a body that stands as a blob names is referenced, also when many are named, and when it is asked again."""
    few = await stored.blobs.put(json.dumps({"a": digest_of("few"), "text": "t" * INLINE_BYTES}).encode())
    names = [f"n{number}" for number in range(100)]
    many = json.dumps([*map(digest_of, names), "p" * INLINE_BYTES]).encode()
    packed = [f"@{few.sha256}:{few.size_bytes}".encode(), await Bodies(stored.blobs).pack(many)]
    await stored.store.write("RPUSH", Keys(stored.tenant)("list"), *packed)
    references = References(stored.store, lambda _: False)
    for _ in range(2):
        suspects = suspects_of(stored.blobs, "few", "other", *names)
        suspects.digests.add(bytes.fromhex(few.sha256))
        await references.strike_out({stored.tenant: suspects})
        assert suspects.digests == {bytes.fromhex(digest_of("other"))}


async def test_what_a_segment_names_is_read_once(stored: Stored) -> None:
    """Its values never change, so a second look has no need of its blob; bodies among them are followed as ever."""
    body = await stored.blobs.put(json.dumps({"a": digest_of("in a body")}).encode(), "json")
    values = [json.dumps({"a": digest_of("in a value")}).encode(), f"@{body.sha256}:{body.size_bytes}".encode()]
    sealed = await stored.blobs.put(b"\n".join(values), "json")
    line = Segment(first=1, last=len(values), ref=sealed).line()
    await stored.store.write("RPUSH", sealed_key(Keys(stored.tenant)("stream")), line)
    references = References(stored.store, lambda _: False)
    for _ in range(2):
        suspects = suspects_of(stored.blobs, "in a value", "in a body", "other")
        suspects.digests.update(map(bytes.fromhex, (body.sha256, sealed.sha256)))
        await references.strike_out({stored.tenant: suspects})
        assert suspects.digests == {bytes.fromhex(digest_of("other"))}
        stored.blobs.path(sealed.sha256).unlink(missing_ok=True)


async def test_a_body_that_is_gone_names_nothing(stored: Stored) -> None:
    """It does not keep the others from being found."""
    await stored.store.write("SET", Keys(stored.tenant)("a"), f"@{digest_of('gone')}:5")
    suspects = suspects_of(stored.blobs, "gone", "other")
    await References(stored.store, lambda _: False).strike_out({stored.tenant: suspects})
    assert left(suspects, "gone", "other") == {"other"}


async def test_a_body_that_is_stored_again_names_what_it_names(stored: Stored, tmp_path: Path) -> None:
    """That it was gone at an earlier look, with this tenant or with another, is not remembered."""
    body = json.dumps({"a": digest_of("x")}).encode()
    ref = await stored.blobs.put(body)
    stored.blobs.path(ref.sha256).unlink()
    other, theirs = TenantId(new_id("ten")), Blobs(tmp_path)
    for tenant in (stored.tenant, other):
        await stored.store.write("SET", Keys(tenant)("a"), f"@{ref.sha256}:{ref.size_bytes}")
    references = References(stored.store, lambda _: False)
    for blobs, named in ((stored.blobs, set()), (stored.blobs, {"x"}), (theirs, set()), (theirs, {"x"})):
        if named:
            await blobs.put(body)
        tenant = stored.tenant if blobs is stored.blobs else other
        suspects = suspects_of(blobs, "x")
        await references.strike_out({tenant: suspects})
        assert left(suspects, "x") == {"x"} - named


async def test_what_others_name_and_what_only_remembers_counts_for_nothing(stored: Stored, tmp_path: Path) -> None:
    """Not another tenant's key, not a key of no tenant, not a weak one."""
    other = TenantId(new_id("ten"))
    for key in (Keys(other)("a"), f"rlm:{new_id('ten')}", Keys(stored.tenant)("weak", "one")):
        await stored.store.write("SET", key, digest_of("x"))
    suspects, theirs = suspects_of(stored.blobs, "x"), suspects_of(Blobs(tmp_path), "x")
    await References(stored.store, lambda name: name == "weak:one").strike_out({stored.tenant: suspects, other: theirs})
    assert left(suspects, "x") == {"x"}
    assert left(theirs, "x") == set()


def test_a_digest_beside_other_digits_is_found_and_a_long_run_costs_little() -> None:
    """Behind or before further hexadecimal digits; of a megabyte of them two are looked at."""
    digest = digest_of("x")
    wanted = bytes.fromhex(digest)
    assert wanted in digests_in(f'"\\f{digest}"'.encode())
    assert wanted in digests_in(f"{digest}ab".encode())
    assert len(list(digests_in(b"a" * (1 << 20)))) == 2
    assert list(digests_in(digest[:-1].encode())) == []

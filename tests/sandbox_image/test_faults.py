"""What nobody foresaw costs a kernel at most, never a lane or the sandbox."""

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox_image.host import Host, alive

LARGE_CALL = """
import json, os, socket, struct, time
def sockets():
    for fd in range(3, 12):
        try: yield socket.socket(fileno=os.dup(fd))
        except OSError: pass
calls = list(sockets())[1]
header = json.dumps({'do': 'call', 'id': 1, 'cell': 1, 'function': 'llm_query'}).encode()
while not os.path.exists('go'): time.sleep(0.001)
calls.sendall(struct.pack('>II', len(header), 60 << 20) + header)
for _ in range(60): calls.sendall(b' ' * (1 << 20))
while True: time.sleep(1)
"""


@contextlib.contextmanager
def little_memory(host: Host) -> Iterator[None]:
    """The supervisor can have three MiB more than it has."""
    status = Path(f"/proc/{host.process.pid}/status").read_text(encoding="ascii")
    data_kib = int(re.findall(r"VmData:\s+(\d+) kB", status)[0])
    before = resource.prlimit(host.process.pid, resource.RLIMIT_DATA)
    resource.prlimit(host.process.pid, resource.RLIMIT_DATA, ((data_kib << 10) + (3 << 20), before[1]))
    try:
        yield
    finally:
        resource.prlimit(host.process.pid, resource.RLIMIT_DATA, before)


def test_a_call_that_the_supervisor_has_no_memory_for_costs_the_kernel(host: Host) -> None:
    """A fault of the supervisor while a cell runs is the loss of its kernel, told in its result; the lane goes on."""
    host.send("cells", "PUT", "/cells/large", host.cell_body(LARGE_CALL))
    host.wait_stat("running_cell", "large")
    with little_memory(host):
        (host.directory.parent / "tmp" / "go").touch()
        reply = host.receive("cells").json
    assert (reply["status"], reply["namespace_lost"]) == ("killed", True)
    assert "MemoryError" in reply["detail"]
    alive(host)


@pytest.mark.parametrize("lane", ["cells", "control"])
def test_a_request_that_the_supervisor_has_no_memory_for_is_answered(host: Host, lane: str) -> None:
    """A fault of the supervisor on a lane is answered as internal, and the lane is dialled again."""
    host.run("kept = 5")
    with little_memory(host):
        host.send(lane, "PUT", "/files", b" " * 2_300_000)  # to be held twice
        answered = host.receive(lane)
    assert (answered.status, answered.json["code"]) == (500, "internal")
    host.drop(lane)
    assert host.request("GET", "/stats", lane=lane).status == 200
    assert host.evaluate("kept") == 5

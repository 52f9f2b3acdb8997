"""A kernel that hands over a value is watched like one that runs a cell."""

import pytest

from tests.sandbox_image.host import alive, start_host
from tests.sandbox_image.test_limits import HIDE_MEMORY

ATTACK_WITH_THE_VALUE = """
import gc, threading
from sandbox_image.kernel import Kernel
kernel = next(found for found in gc.get_objects() if isinstance(found, Kernel))
class Between:
    def __init__(self, connection): self.connection = connection
    def sendall(self, data):
        if b'"chunk"' in bytes(data[:64]): attack()
        return self.connection.sendall(data)
    def __getattr__(self, name): return getattr(self.connection, name)
kernel._connection = Between(kernel._connection)
value = 'y' * (8 << 20)
"""


def test_memory_taken_while_a_value_is_read_ends_a_kernel() -> None:
    """Between the pieces of a value a kernel may take no more than within a cell; the reader has an error."""
    with start_host(landlock=False) as host:
        host.claim(memory_bytes=128 << 20)
        host.run(HIDE_MEMORY + "def attack(): hoard(100)" + ATTACK_WITH_THE_VALUE)
        assert host.value("value").json["code"] == "kernel_lost"
        reply = host.run("1")
        assert (reply["status"], reply["namespace_lost"]) == ("killed", True)
        assert "more memory than its 128 MiB" in reply["detail"]
        alive(host)


def test_memory_taken_while_the_host_does_not_read_ends_a_kernel() -> None:
    """What goes on beside a value that the host takes its time with is watched all the same."""
    with start_host(landlock=False) as host:
        host.claim(memory_bytes=128 << 20)
        begin = "def attack(): threading.Thread(target=hoard, args=(100,)).start()"
        host.run(HIDE_MEMORY + begin + ATTACK_WITH_THE_VALUE)
        host.send("cells", "GET", "/values/value?as=text&limit=1073741824")
        while host.request("GET", "/stats").json["kernel_lives"] == 1:
            assert host.process.poll() is None
        host.drop("cells")
        reply = host.run("1")
        assert "more memory than its 128 MiB" in reply["detail"]
        alive(host)


@pytest.mark.takes_long
def test_a_kernel_that_spins_instead_of_sending_is_ended() -> None:
    """The seconds for a value are bounded by its size, however slowly its pieces come."""
    with start_host(landlock=False) as host:
        host.claim()
        host.run("def attack():\n    while True: pass\n" + ATTACK_WITH_THE_VALUE)
        assert host.value("value").json["code"] == "kernel_lost"
        assert "too long to hand over a value" in host.run("1")["detail"]
        alive(host)


def test_a_large_value_passes_a_host_that_takes_its_time() -> None:
    """A host that pauses in the middle gets all of it in the end."""
    with start_host(landlock=False) as host:
        host.claim()
        host.run("value = 'z' * (24 << 20)")
        host.send("cells", "GET", "/values/value?as=text&limit=1073741824")
        for _ in range(20):
            assert host.request("GET", "/stats").status == 200
        assert host.receive("cells").body == b"z" * (24 << 20)
        alive(host)

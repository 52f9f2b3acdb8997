"""Makes a thread that waits for descriptors look at something else."""

import os
from contextlib import suppress

_READ_BYTES = 4096


class Waker:
    """Makes the thread that is in `KernelLife.ask` look around. One for all lives."""

    def __init__(self) -> None:
        self.descriptor, self._other_end = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._other_end, False)

    def wake(self) -> None:
        with suppress(BlockingIOError):  # full: whoever looks will find enough to wake for
            os.write(self._other_end, b"!")

    def calm(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.descriptor, _READ_BYTES)

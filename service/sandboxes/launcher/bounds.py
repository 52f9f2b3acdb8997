"""What the operator lets the client have, whatever it asks for. Pure."""

from dataclasses import dataclass

from service.sandboxes.launcher.protocol import Runtime, StartRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """None: as much as the protocol allows."""

    images: tuple[str, ...]
    runtimes: tuple[Runtime, ...] = ("runc", "runsc")
    memory_bytes: int | None = None
    """Of one sandbox's kernel, as a template gives it."""
    tmp_bytes: int | None = None
    sandboxes: int | None = None
    """At once."""

    def refusal(self, request: StartRequest, *, sandboxes: int) -> str | None:
        """Why it may not start beside so many others, and what to do; None if it may."""
        if request.image not in self.images:
            return f"the launcher may start {', '.join(self.images)}, found {request.image}"
        if request.runtime not in self.runtimes:
            allowed = ", ".join(self.runtimes)
            return f"the launcher may use the runtime {allowed}, found {request.runtime}: start it with more --runtime"
        for option, asked, most in (
            ("--max-memory-mb", request.memory_bytes, self.memory_bytes),
            ("--max-tmp-mb", request.tmp_bytes, self.tmp_bytes),
        ):
            if most is not None and asked > most:
                return (
                    f"the launcher's {option} is {most >> 20}, found a request for {-(-asked >> 20)} MB: ask for less, "
                    "or start the launcher with more"
                )
        if self.sandboxes is not None and sandboxes >= self.sandboxes:
            return f"the launcher's --max-sandboxes of {self.sandboxes} are there: end one, or start it with more"
        return None

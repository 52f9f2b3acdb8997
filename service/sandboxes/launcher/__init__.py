"""The launcher: the one process that holds the Docker socket.

Whoever can speak to Docker is root on the machine, so the process that reads what sandboxes send must not be able to.
The launcher takes closed requests over a unix socket of its own and turns each into exactly one container profile;
nothing that a caller writes reaches Docker as it is. It runs by itself (`python -m service.sandboxes.launcher`), or
as a child of the service on the embedded default.

    protocol     the requests and replies, strict; both sides import it
    wire         one JSON object a line, bounded, on a deadline
    server       who may speak, which request does what, and the lease a caller holds on a sandbox
    containers   the sandboxes there are: start, end, reconcile; held: those that are known, by id
    bounds       what the operator lets the client have
    staging      session directories, safe from a client that swaps them while the engine mounts
    reconciling  which containers must go, as a pure function; orphans: whose owner is dead
    owners       whose a sandbox is
    uids         a uid of its own for each sandbox
    turns        of one client only so many requests at once, so that another finds the engine free
    engine       the Docker SDK: the only module that imports it; its types and errors do not leave
    engine_faults  what the engine's refusals and silence mean
    program      the command line

What a container is made of stands in `docker_profile`, one room up; the caller's side is `docker_launcher`. Imported
by nobody but `docker_launcher` and `docker_provider` (protocol, wire) and the tests.
"""

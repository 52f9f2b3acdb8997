"""The escape suite: attacks on every backend that this machine has, each with what is expected of it there.

    python -m tests.escape [--short] [--seed N] [--backend NAME]…        (`make escape`)

    case         one attack, and the outcomes that count as held, for each backend
    attack       what an attack has at hand inside: `attempt`, `call`, `say`
    cells/       attacks from a cell: files, sockets, system calls, other processes, memory, endings,
                 output, secrets, host calls
    supervisor   attacks by a sandbox whose supervisor is the attacker's: only one filter and the outer limits are left
    ground       what stands around the sandbox: bait, and how it is seen to be unharmed
    backends     where cells run here, found by starting them; versions
    outside      sandboxes that run, as Linux and the engine tell of them
    column       all rows of one backend
    service      rows that need no backend: a hostile peer, hostile launcher clients, the gateway

Attack code runs inside a sandbox only, against bait that the suite planted. Whether a file of the system is visible is
asked with `stat`; none is opened to be read. Reachability of addresses is asked by a datagram `connect`, which sends
nothing; connections are tried only to listeners of the suite's own.

A row holds when the attack's outcome is expected on its backend, the ground is unharmed and the sandbox still answers.
"""

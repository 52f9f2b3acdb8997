"""`make chaos`: runs that must come to their undisturbed end while all that carries them is killed, paused or filled.

    python -m tests.chaos [--short] [--seed N] [--sandbox process|docker] [--mutants | --mutant NAME]

Real `serve` processes (two replicas behind one address, over one real store), real sandboxes, clients over HTTP, and a
provider that answers by the conversation alone and writes down every call that reaches it. Faults strike after a number
of calls that the seed draws, so they hit the same stretches of work on fast and on slow machines; which instruction
they hit is left to the machine, and the figures have to be zero all the same.

    plays        what the root LM and the sub-LM say in each kind of run, and the answer that follows from it
    upstream     the provider, and its own account of what it was asked
    cluster      the processes: store, replicas, what they started
    containers   the launcher and the containers, where sandboxes are such
    processes    where sandboxes are processes
    balancer     the one address in front of the replicas
    clients      those who submit runs and follow them through every failure
    faults       what is done to whom
    campaign     many runs under many faults
    rolling      replicas restarted in turn under load, with clients that forgive nothing
    audit        journals, ledger, provider and machine compared
    calls_compared   each call that arrived, and what is booked for it
    variables    what cells did not find any more, and whether that was told
    mutants      defects put in on purpose: each must turn its figure

Nothing here looks at processes, containers or files of anybody else.
"""

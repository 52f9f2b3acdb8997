"""The use cases: what the service does, told in terms of every room below.

    tenancy        one `runs` for each tenant
    runs           the door: submit, start, follow, cancel, show
    submission     a request becomes the first event: everything checked, priced and rendered
    driver         performs the commands of `loop` one by one and journals what happened
    metered_call   reserve → call → journal → settle: the only way to a model, for root and sub-calls alike
    host_calls     what code in a cell may ask of us: sub-calls, batches, child runs, its budget
    grants         which token stands for which run
    sessions       a sandbox with its cell log: opened, bound, rebuilt, closed
    recovery       leases, what was in flight when a replica was lost, and who goes on with its runs
    purse          the ledger rows that one run's calls are charged to
    trajectories   a run's events in the forms that other programs read
    schemas        JSON Schema, checked before it is used on anything

The journal is the only truth about a run: the driver appends what happened before it acts on it.
Imported by `gateway`, `web`, `console` and `wiring`; imports nothing above itself.
"""

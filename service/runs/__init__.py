"""The use cases: what the service does, told in terms of every room below.

    runs           the door: submit, start, follow, cancel, show
    tenancy        one `runs` for each tenant
    rooms          what all of this works with: the rooms below
    submission     a request becomes the first event: everything checked, priced and rendered
    driving        performs the commands of `loop` for one run, from its seat to its last word
    calls          the metered call: reserve → call → journal → settle, the only way to a model
    dispatch       whose turn it is: places, sandboxes and rates, beside money
    host_calls     what code in a cell may ask of us: sub-calls, batches, child runs, its budget
    sessions       a sandbox with its cell log: opened, bound, rebuilt, closed
    holdings       what a tenant keeps: counted, and given back
    session_use    sessions as their callers use them: cells, variables, files
    answering      a chat client's conversation becomes a run, and the run its answer
    direct         one budgeted plain completion, without a loop and without a sandbox
    recovery       leases, what was in flight when a replica was lost, and who goes on with its runs
    requests       what is sent twice is done once
    estimates      what a run may cost, before it is submitted
    trajectories   a run's events in the forms that other programs read
    replay         a finished run done again without any model
    forks          a run that begins with the first turns of another one
    exports        a finished run as a file, and back
    copies         what forks and imports take over, under other ids
    retention      runs that ended long ago are forgotten
    erasure        everything of a tenant, gone for good

The journal is the only truth about a run: the driver appends what happened before it acts on it.
Imported by `gateway`, `web`, `console` and `wiring`; imports nothing above itself.
"""

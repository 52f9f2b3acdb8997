"""Where code runs, seen from the trusted side.

    port                the provider port: what starts a sandbox and ends it; the errors of this room
    process_provider    a sandbox as a process of this machine, at one of the levels of `levels`
    docker_provider     a sandbox as a container, under `runc` or gVisor's `runsc`
    docker_profile      all that a container is told, as a pure function; docker_seccomp: its system calls
    docker_launcher     asks the launcher, and starts one where there is none
    launcher            the process that alone holds the Docker socket (a package of its own)
    levels              the command line of each level, as a pure function
    image, python_files what the inside consists of: a copy of the image, the files Python needs
    bubblewrap          the argument list of bubblewrap, as a pure function
    seatbelt            the profile of macOS's Seatbelt and its command line, as a pure function
    probe               which of those levels works here, found by starting a sandbox and looking around in it
    local_process       one sandbox as processes of this machine: started, remembered, ended
    processes           pids, start times and trees of processes, measured and ended
    process_table       what /proc tells of processes, or ps where there is none
    opening             opens a sandbox: directory, listener, process, first dial
    directory           the session directory that host and sandbox share
    socket_path         a path of a socket that fits its address
    tree_removal        removes what hostile code has filled
    listener            takes the streams that the sandbox dials, and says whose they are
    stream              one connected unix stream
    dialled_stream      such a stream under HTTP, and what must not reach a parser
    link                speaks HTTP to the sandbox over those streams
    exchanges           all that is asked of one sandbox, each within its time (patience); refusals: its error answers
    cell_watch          the host's own bound on a cell's active time, measured from outside
    replies             believes nothing that comes back: checks it and turns it into our values
    sandbox             the REPL client, the same for every provider
    slots               who may have a sandbox, so that parents and children never wait for each other for ever
    pool                keeps sandboxes started ahead of need
    reaper              ends what a dead replica left behind
    capabilities        what a level promises and what it cannot, and whom it may serve

What runs inside lives in `sandbox_image`; of it this room knows `protocol` and no more. Nothing here knows of
runs, models or money. Imported by `runs`, `wiring` and the layers above; siblings do not import it.

Everything that comes out of a sandbox is hostile input: bounded before it is read, on a total deadline, checked
against a closed schema. A sandbox that breaks the protocol is killed.

On macOS the process provider tries Seatbelt, which none of us has seen at work (docs/decisions/0010); on Windows it
refuses.
"""

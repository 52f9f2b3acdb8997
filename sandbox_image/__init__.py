"""What runs inside a sandbox: the untrusted side.

Standard library only, and nothing of `service`: this package is copied (or bind-mounted) alone into the
sandbox. `protocol` is the only module that the service imports too; the process that reads documents, which is no more
trusted than this, borrows `seccomp`.

    start           from the command line to a serving supervisor: confine, fork the zygote, dial
    system          what is asked of the operating system beyond POSIX; everything else here runs on Linux and macOS
    linux           Linux's answers: seccomp, landlock (native and syscalls are what these stand on), /proc
    macos           macOS's: Seatbelt stands around the sandbox already, and little else can be had

    supervisor      the first process; speaks HTTP (http_stream) on streams that it dialled itself (dialling)
    operations      what the host can have done to the kernel: claim, bind, run a cell, read a value, restart
    request_checks  what of it is refused before anything is done
    value_stream    a value on its way from the kernel to the host
    cell_run        one cell: what it was given, what it prints, how its end is told
    cell_book       which cells have run, and their results until they are acknowledged
    kernel_seat     who may talk to the kernel, and that another follows one that has ended
    kernel_life     one kernel as the supervisor holds it: sockets, pipes (capture), limits (clock,
                    memory_watch, file_watch)
    kernel_exit     how it ended; hang_up, waker: what else its thread attends to meanwhile
    host_calls      what a kernel asks of the gateway: checked, keyed, bounded, repeated when the way breaks
    files           what the host does with the files in /tmp, safe beside code that moves them

    kernel_birth    what a kernel is started with
    zygote          forked before the first connection; has the imports done; forks, signals and reaps kernels
    kernel          runs the cells (cells, interrupts, memory_reserve, thread_starts) and answers one request at a time
    namespace       the names a model can rely on: host_functions (origins), answers, bindings, reply_text
    shared_text     large texts as `str`s over a mapped file
    tracebacks, echo, encoded_values    what of a cell goes back, bounded

    protocol        the wire format to the host; the only module that the trusted side imports too
    frames, kernel_messages, decoding   the wire format between supervisor and kernel; strict both ways

The supervisor is trusted by the kernel and by nobody else; the kernel is trusted by nobody.
"""

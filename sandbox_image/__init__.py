"""What runs inside a sandbox: the untrusted side.

Standard library only, and nothing of `service`: this package is copied (or bind-mounted) alone into the
sandbox. `protocol` is the only module that the trusted side imports too.

    supervisor   the first process; speaks HTTP over connections that it dialled itself, never runs a cell
    zygote       forked from it before the first connection; has the imports done; only ever forks
    kernel       forked from the zygote; runs the cells; holds the namespace; may die at any time
"""

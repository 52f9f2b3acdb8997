"""Sessions as their callers use them directly: opened and changed, cells run in them, variables and files in and out.

Whatever runs code is a run here too: a direct cell is a run without a root LM (`RunRequest.code`), so it waits for its
seat, is journalled, charged, cancelled and rebuilt as every run is. What only looks or puts something in happens
between runs, or beside them where the sandbox allows it (files), in a sandbox that an empty cell wakes if need be.
"""

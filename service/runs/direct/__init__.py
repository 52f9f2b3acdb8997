"""Direct calls: one budgeted plain completion, without a loop and without a sandbox.

It goes through the same metered call as everything else and is journalled as a run, so that it is listed, charged and
found again; it is never driven. What was under way when its replica died is ended by whoever takes the run over.
"""

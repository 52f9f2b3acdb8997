"""From a request to the first event: everything checked, priced and rendered before the run exists. Pure.

What the looking up takes stands in `service.runs.submitting`.
"""

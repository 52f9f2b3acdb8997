"""Metrics: what this replica has done, counted for Prometheus.

    series    counters, gauges and histograms with bounded labels, and their text form
    replica   which ones there are: requests by route, and what the journal has kept

What happens in runs is counted from the events that the journal has kept, and nowhere else, so the figures say what
happened and cannot say anything that did not. No label has a value that a tenant chooses: no ids, names or payloads.

Imported by `web` and `wiring`; imports the events of `loop`.
"""

"""Exports: a finished run as one file of JSON lines that another installation imports, replays and forks.

lines        what stands in such a file, line by line
exporting    a run → its lines
importing    lines → a run of this tenant's own; everything in them is hostile
"""

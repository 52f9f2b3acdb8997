"""Exports: a finished run as one file of JSON lines that another installation imports, replays and forks.

lines        what stands in such a file, line by line
exporting    a run → its lines
reading      lines, as they come, under bounds; everything in them is hostile
checking     whether what was read is a finished run that stands for itself
importing    that → a run of this tenant's own
"""

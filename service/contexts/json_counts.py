"""How many values of JSON are decoded at once: `sandbox_image.protocol.count_values` counts them before."""

MOST_VALUES = 100_000
"""Of a body, or of a line of an export: strings, numbers, lists, objects. What is more is stored as JSON lines, which
are read one by one."""

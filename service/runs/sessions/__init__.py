"""A sandbox as runs use it: opened, bound to its contexts, and rebuilt from its cell log when it was lost.

Which run may use which session, and when, is decided in `driving`.
"""

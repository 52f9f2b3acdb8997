"""The composition root: settings become adapters, adapters become use cases.

The only room that knows which implementation stands behind which name. `service` opens everything, `models`,
`sandboxes` and `data_directory` each a part of it that the doctor opens by itself.
"""

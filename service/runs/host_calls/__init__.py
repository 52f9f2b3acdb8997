"""What code in a cell may ask of the service, and the records that make its questions repeatable.

Sub-calls, child runs, `budget()`, and the grants under which the gateway lets a sandbox ask. It knows no sandbox: what
it is asked arrives as values, whoever carried them.
"""

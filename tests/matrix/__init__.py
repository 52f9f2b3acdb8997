"""`make matrix`: other people's clients against the running service, each in an environment of its own.

`upstream` is the model provider that counts what it is asked, `environments` installs a client from its lock below
`requirements/`, `drivers/` are the programs that run there (importing the client, the standard library and `telling`),
`rows` is what they tell, and `__main__` starts the service and compares its ledger with the provider's count. pytest
collects nothing here.

A lock is made from the file of its name that ends with `.in`:
`uv pip compile --universal --generate-hashes --python-version 3.11 --no-annotate --no-header CLIENT.in -o CLIENT.txt`
"""

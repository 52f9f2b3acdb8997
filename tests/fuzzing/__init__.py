"""Whatever parses what a sandbox, a model or a client sends, fed with what nearly fits.

targets       one function for each parser: bytes in, nothing out; raises only for a defect
mutations     seeds with changes
test_targets  all of them under hypothesis
__main__      the same for as long as you like (`make fuzz`)
"""

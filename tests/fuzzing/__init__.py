"""Whatever parses what a sandbox, a model or a client sends, fed with what nearly fits.

targets       one function for each parser: bytes in, nothing out; raises only for a defect
sandbox_targets  those of what sandboxes, kernels and launcher clients send
mutations     seeds with changes
test_targets  all of them under hypothesis
guided        one of them under atheris, led by the code that its inputs reach
__main__      both for as long as you like (`make fuzz`)
"""

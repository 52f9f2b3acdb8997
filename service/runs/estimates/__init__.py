"""What a run may cost, told before it is submitted: a bound that holds, and what runs like it came to.

`estimate` is pure; `estimating` reads the tenant's own history. It holds no money and writes nothing.
"""

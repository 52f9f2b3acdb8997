"""HTTP/1.1 to one model provider: what is sent again and again is put together once, what comes back is parsed in C.

    pool         connections to one URL: which is used, which is kept
    connection   one of them, one exchange at a time
    response     what comes back, piece by piece (no sockets)
    errors       how an exchange fails, told apart by what the provider may have seen of it

It is as small as its one use: POST with a body that is known, no redirects, no cookies, no compression, no proxy of the
environment. It costs a quarter of the CPU of a general client, and a sub-call is mostly that. It runs on asyncio.

Imported by `provider_connection` only.
"""

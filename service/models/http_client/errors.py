"""How an exchange fails. Each is translated by `provider_connection`; none leaves `models`."""


class HttpFailed(Exception):
    """No whole response came."""


class CannotConnect(HttpFailed):
    """There is no connection, so nothing was sent."""


class NotTrusted(CannotConnect):
    """The server's certificate is not one that the machine trusts for its name."""


class RequestMalformed(HttpFailed):
    """The URL or a header cannot be sent; nothing was."""


class ConnectionBroke(HttpFailed):
    """It ended before the head of a response was there; the request may have arrived."""


class NotHttp(HttpFailed):
    """What came is no response, or has a head without end."""


class BodyBroke(HttpFailed):
    """The response's body ended too early, or its framing makes no sense."""

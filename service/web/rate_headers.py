"""What responses say of the limits by the minute: the IETF's `RateLimit` and OpenAI's `x-ratelimit-*`."""

import math

from service.tenants.rates import Bucket, Rate, RateReport

_NAMES = {Rate.REQUESTS: "requests", Rate.TOKENS: "tokens"}


def rate_headers(report: RateReport) -> list[tuple[bytes, bytes]]:
    """Of whichever level has least left, request by request and token by token; none where nothing is limited."""
    found = [(name, bucket) for rate, name in _NAMES.items() if (bucket := report.tightest(rate)) is not None]
    if not found:
        return []
    headers = [
        ("ratelimit", ", ".join(f'"{name}";r={each.remaining};t={_seconds(each)}' for name, each in found)),
        ("ratelimit-policy", ", ".join(f'"{name}";q={each.limit};w=60' for name, each in found)),
    ]
    for name, each in found:
        headers += [
            (f"x-ratelimit-limit-{name}", str(each.limit)),
            (f"x-ratelimit-remaining-{name}", str(each.remaining)),
            (f"x-ratelimit-reset-{name}", f"{_seconds(each)}s"),
        ]
    return [(name.encode(), value.encode()) for name, value in headers]


def _seconds(bucket: Bucket) -> int:
    return math.ceil(bucket.reset_s)

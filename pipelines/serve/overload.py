"""The error for a request that the server has no room for now."""


class OverloadError(Exception):
    """Too much waits already: the request is refused with 503 instead of waiting behind all others."""

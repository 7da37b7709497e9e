"""Who may ask: the token, and protection from other web pages that are open in the same browser.

Without a token the server listens on loopback only, and then whoever reaches it is a user of this machine, or a web
page in his browser. Such a page can send requests here, so each request must name this machine in `Host` (else a name
that its owner points to 127.0.0.1 would do: DNS rebinding), and must not come from another origin. With a token, the
token decides: scripts send it as `Authorization: Bearer`, browsers get a cookie for it that other origins can't use.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.serve.config import SHORTEST_TOKEN, TOKEN_VARIABLE, ServeConfig
from vista_core import UsageError

COOKIE = "vista_session"
LOOPBACK_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
OF_THIS_PAGE = ("same-origin", "none")  # values of Sec-Fetch-Site; `none`: the user typed the address
READS = ("GET", "HEAD")


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered: an HTTP status, and what to do."""

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Access:
    """The token that requests must have; None on loopback without one."""

    token: str | None

    @classmethod
    def of(cls, config: ServeConfig, environment: Mapping[str, str] = os.environ) -> Access:
        """The token of --token-file or the environment. Raises UsageError if it is missing, unreadable or too short."""
        token, origin = environment.get(TOKEN_VARIABLE) or None, TOKEN_VARIABLE
        if config.token_file is not None:
            origin = f"--token-file {config.token_file}"
            try:
                token = Path(config.token_file).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{origin}: {error}") from error
        if token is None:
            if not config.is_loopback:
                raise UsageError(
                    f"--host {config.host} can be reached from other machines, so requests need a token: give a file "
                    f"with one by --token-file, or set {TOKEN_VARIABLE}"
                )
            return cls(None)
        if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError(f"{origin}: the token must be {SHORTEST_TOKEN} or more printable characters of ASCII")
        return cls(token)

    @property
    def session(self) -> str:
        """The value of the cookie that stands for the token, from which the token can't be computed."""
        return hmac.new((self.token or "").encode(), b"vista serve: session", hashlib.sha256).hexdigest()

    def accepts(self, token: str) -> bool:
        """True for the right token. Takes the same time for every wrong one."""
        return self.token is not None and same(token, self.token)

    def knows(self, headers: Mapping[str, str]) -> bool:
        """True if the headers of a request have the token, or its cookie, or need none."""
        if self.token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        return (kind.lower() == "bearer" and same(given.strip(), self.token)) or same(
            cookie(headers.get("cookie", "")), self.session
        )

    def refusal(self, method: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request must not be answered to whoever sent it; None if it may, given the token.

        A page of another origin may not read answers, but it may send requests: those are refused here.
        """
        host = headers.get("host", "")
        if self.token is None and not LOOPBACK_HOST.fullmatch(host):
            return Refusal(421, "this server answers to localhost and 127.0.0.1 only")
        origin = headers.get("origin")
        if origin is not None and (origin == "null" or urlsplit(origin).netloc.lower() != host.lower()):
            return Refusal(403, "requests of other origins are not answered")
        if origin is None and method not in READS and headers.get("sec-fetch-site", "none") not in OF_THIS_PAGE:
            return Refusal(403, "requests of other sites are not answered")
        return None


def same(given: str, right: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


def cookie(header: str) -> str:
    """The value of COOKIE in a Cookie header; empty if it is not there."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""

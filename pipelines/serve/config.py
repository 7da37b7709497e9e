"""The options of the command `serve`, and the limits of what a request may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from pipelines.fetching.addresses import is_network, parse_address
from pipelines.fetching.locations import FetchLimits, FetchRules
from pipelines.options import NAME, Constraint, Device, check_options
from pipelines.storage.uris import absolute
from vista_core import UsageError

PORT = Constraint("between 0 and 65535", lambda value: 0 <= value <= 65535)
TOKEN_VARIABLE = "VISTA_TOKEN"
SHORTEST_TOKEN = 16  # characters; a random token of this length can't be guessed by asking


@dataclass(frozen=True)
class ServeLimits:
    """What one request, and all requests together, may cost."""

    body_bytes: int = 25 << 20  # of a request: an image of at most 20 MiB, and the text
    image_bytes: int = 20 << 20  # of a query's image, and of an image that is fetched for the page
    bodies_bytes: int = 256 << 20  # of all requests that are under way
    body_seconds: float = 30.0  # within which the next piece of a request must arrive
    text_characters: int = 20_000  # of a query; a model reads far less
    where_characters: int = 4_000
    results: int = 100  # of one answer
    depth: int = 1_000  # results that can be reached by paging
    queue: int = 128  # queries that wait for the encoder; further ones get 503
    batch: int = 16  # queries that the encoder gets at once
    searches: int = 4  # of LanceDB at the same time
    wait_seconds: float = 10.0  # that a query waits in the queue, until it gets 503
    retry_after: int = 1  # seconds, told with each 503
    poll_seconds: float = 2.0  # between looks at the tag `published`
    openings: int = 16  # requests that wait for a version to be opened
    pinned: int = 4  # versions and columns beside the published ones that are kept open
    thumbnail_threads: int = 2  # that fetch and decode images
    thumbnail_queue: int = 200  # images that wait for them; a page shows 100
    thumbnail_cache_bytes: int = 64 << 20
    facet_rows: int = 100_000  # of the table that the filters are counted on
    facet_values: int = 20  # a column with more different values gets no list of choices
    fetch_seconds: float = 10.0
    stop_seconds: float = 10.0  # for which running requests are waited for at the end


@dataclass(frozen=True)
class ServeConfig:
    """Serve a page and a JSON API that search the published version of --db/--table. A version that is published later
    is served within seconds. Exit code: 1 failed, 2 wrong usage, 130 or 143 stopped by SIGINT (Ctrl-C) or SIGTERM."""

    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: Annotated[str, NAME]
    """Name of the table."""
    column: str | None = None
    """The vector column that is searched unless a request names another one; default: that of the table (`vector`,
    unless `vista switch` named another), also when this changes."""
    allow_incomplete: bool = False
    """Search also columns that a backfill has not filled yet: rows without a vector are not found."""
    host: str = "127.0.0.1"
    """The address to listen on. Any other than this machine's own needs a token, since everybody can reach it."""
    port: Annotated[int, PORT] = 8080
    """The port to listen on; 0 takes a free one."""
    token_file: str | None = None
    """A file with the token that requests must have; default: that in the environment variable VISTA_TOKEN, if any."""
    allow_prefix: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Show images that rows only name if their URI starts with this, such as https://img.example.com/ or s3://bucket/;
    default: only images that are stored in the table are shown. A web server whose name leads to an address that is not
    public needs that address, or its network, as well: 10.1.2.3 or 10.1.0.0/16."""
    image_root: str | None = None
    """Show images of this folder; relative image paths refer to it; default: they refer to the folder of the file that
    the row came from."""
    model: str | None = None
    """The model that the column was embedded with, or its model folder, if that is no longer where the table says;
    default: the one that is stored with the table."""
    weights: str | None = None
    """The model's weights, if they are no longer where the table says."""
    from_pretrained: str | None = None
    """The folder with config.json and tokenizer, if it is no longer where the table says."""
    device: Device = "auto"
    """Where the model runs."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)
        for prefix in self.allow_prefix:
            if "://" not in prefix and not prefix.startswith(("/", ".", "~")) and not is_network(prefix):
                raise UsageError(f"--allow-prefix {prefix}: https://{prefix} or a folder, as ./{prefix}?")

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach the server."""
        address = parse_address(self.host)
        return self.host == "localhost" if address is None else address.is_loopback


def fetch_rules(config: ServeConfig, limits: ServeLimits) -> FetchRules:
    """What may be fetched for the page. A person waits for it, so hosts that fail are soon left alone."""
    root = absolute(config.image_root) if config.image_root else None
    prefixes = (prefix if is_network(prefix) or "://" in prefix else absolute(prefix) for prefix in config.allow_prefix)
    return FetchRules(
        allowed=(*prefixes, *([root] if root else [])),
        root=root,
        max_bytes=limits.image_bytes,
        timeout_seconds=limits.fetch_seconds,
        identity="uri",
        limits=FetchLimits(attempts=1, longest_retry_after=0.0, threads=limits.thumbnail_threads),
    )

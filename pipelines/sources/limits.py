"""How much of a source is read and held in memory at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper limits of batches, units and reads. The product uses the defaults; tests pass smaller ones."""

    # Folders
    link_targets: tuple[str, ...] = ()  # --allow-prefix: where links of the source may lead, beside its own folder

    # Any format
    batch_rows: int = 4096  # records in a batch
    batch_bytes: int = 32 << 20  # encoded images and texts in a batch
    reject_rows: int = 4096  # unreadable rows in a batch
    unreadable_rows: int = 100_000  # of a unit, that are rejected one by one; for more, one reject stands for all
    read_bytes: int = 8 << 20  # requested from a store at once
    row_bytes: int = 128 << 20  # that one row takes once dictionaries are resolved, and texts repeated for its images
    record_images: int = 1000  # in the list of a record
    rows_per_byte: int = 100  # that a Parquet or Arrow file can have
    columns: int = 1000  # of a source; more cost each row a cell for each of them
    depth: int = 32  # of lists and structs in each other
    gzip_ratio: int = 200  # to how many times its bytes a gzip file may unpack, beyond the first `gzip_bytes`
    gzip_bytes: int = 64 << 20

    # Parquet and Arrow
    row_groups: int = 10_000  # of a Parquet file
    batch_memory: int = 512 << 20  # of a record batch of Arrow, or a page of Parquet, unpacked
    batch_stored: int = 2 << 30  # the same, if at least a quarter of it is stored, as of images

    # JSON lines and CSV
    range_bytes: int = 16 << 20  # bytes of a file in a unit: about 10^5 records, which the fetch stage distributes
    block_bytes: int = 1 << 20  # searched for line ends at once; larger blocks outgrow the processor's cache
    tail_bytes: int = 256 << 10  # read at once to find a range's first record and the end of its last
    record_bytes: int = 64 << 20  # the longest record
    parsed_bytes: int = 8 << 20  # the longest line that Python parses, to find columns or to say what is wrong with it
    sample_bytes: int = 1 << 20  # read to find the columns and their types
    header_bytes: int = 64 << 10  # read to find the header of a CSV file

    # WebDataset
    batch_samples: int = 256  # samples in a batch
    first_samples: int = 256  # samples of a shard that decide the columns
    first_bytes: int = 64 << 20  # of all these shards, where the search for these samples ends
    first_shards: int = 8  # that are searched
    webdataset_sample_bytes: int = 128 << 20  # the largest sample, which is held in memory
    sample_members: int = 1000  # of a sample
    member_text_bytes: int = 8 << 20  # the largest .json, .txt or .cls: parsed, a JSON takes up to 30 times its bytes
    name_bytes: int = 4096  # the longest name of a member

    # Folders of images
    page_files: int = 256  # images in a unit
    page_bytes: int = 32 << 20  # bytes of images and texts in a unit
    image_bytes: int = 128 << 20  # the largest image file
    text_bytes: int = 16 << 20  # the largest text file beside an image

    def unpacked_bytes(self, stored: int) -> int:
        """To how many bytes a batch or page of `stored` bytes may unpack.

        A bomb shrinks by a factor of a thousand; large batches of images and texts, which are no bombs, by less than 4.
        """
        return max(self.batch_memory, min(4 * stored, self.batch_stored))


DEFAULTS = Limits()

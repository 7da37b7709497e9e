"""The fingerprint of a record's content, by which changes are detected, and checksums of the table's rows.

Another definition of `fingerprint` embeds every record of every table anew.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipelines.records import FINGERPRINT_TYPE


def fingerprint(text: str | None, image: bytes | pa.Buffer | None, external: str | None = None) -> bytes:
    """16 bytes that change if and only if the encoder's input changes (XXH3, 128 bits).

    No text and an empty text are the same input. `external` (URI and version) stands for an image that was not read.
    """
    encoded = (text or "").encode("utf-8", "surrogatepass")
    digest = xxhash.xxh3_128(len(encoded).to_bytes(8, "little"))
    digest.update(encoded)
    if external is not None:
        digest.update(b"\x02" + external.encode("utf-8", "surrogatepass"))
    else:
        digest.update(b"\x00" if image is None else b"\x01")
        digest.update(image or b"")
    return digest.digest()


def digests(fingerprints: pa.Array) -> np.ndarray:
    """V16 [N]: the 16 bytes of each fingerprint; zeros for a null."""
    width = FINGERPRINT_TYPE.byte_width
    filled = pc.fill_null(fingerprints, bytes(width))
    return np.frombuffer(filled.buffers()[1] or b"", f"V{width}", len(filled), filled.offset * width)


def row_checksums(fingerprints: pa.ChunkedArray, runs: pa.ChunkedArray) -> np.ndarray:
    """uint64 [N], one per row of a table, which changes whenever the job writes the row. Files have the sum of theirs.

    `fingerprints` are those of the rows, `runs` the runs that wrote them; another client may have left out both.
    """
    halves = digests(fingerprints.combine_chunks()).view(np.uint64)
    runs = pc.fill_null(runs, "").combine_chunks()
    names = runs.dictionary_encode()
    hashes = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names.dictionary.to_pylist()], np.uint64)
    of_run = hashes[names.indices.to_numpy()] if len(runs) else np.empty(0, np.uint64)
    return (halves[0::2] * np.uint64(0x9E3779B97F4A7C15)) ^ of_run

"""Records that end the process that reads or decodes them, or never end, cost themselves alone."""

from pathlib import Path

import lance
import pyarrow as pa
import pytest

from pipelines.cluster.child import ProcessLimits
from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup, embed
from pipelines.stages.pool import Stages
from tests.pipelines.poison import KILLED_ONCE, POISON, poisonous

pytestmark = pytest.mark.usefixtures("ray_cluster")

LIMITS = ProcessLimits(seconds=10, memory=300 << 20)
SETUP = Setup(stages=Stages(decode=poisonous, decoding=LIMITS))
ROWS = 50  # in a fragment
MESSAGES = {
    "aborts": "the process died of SIGABRT",
    "takes all memory": "the process ended with exit code 3: out of memory: more than 300 MiB",
    "panics": "the process ended with exit code 3: Panic: index out of bounds",
    "never ends": "the process gave no result for 10 seconds",
}


def damage(fragment: lance.LanceFragment, folder: Path) -> None:
    """Let the footer speak of four billion buffers, for which Lance asks for 64 GiB, and aborts."""
    [file] = fragment.data_files()
    path = folder / "data" / file.path
    content = bytearray(path.read_bytes())
    content[-13] = 0xFF
    path.write_bytes(bytes(content))


def test_what_ends_its_process_is_rejected_and_all_else_is_embedded(tmp_path):
    """Two kinds of poison in one fragment and two in another, a worker that is killed, and a damaged fragment."""
    texts = {f"id{number}": f"text {number}" for number in range(4 * ROWS)}
    texts |= dict(zip(("id7", "id49", "id50", "id99"), POISON, strict=True))
    texts["id110"] = f"{KILLED_ONCE}{tmp_path / 'killed'}"
    folder = tmp_path / "catalog.lance"
    rows = pa.table({"id": list(texts), "text": list(texts.values())})
    damage(
        lance.write_dataset(rows, folder, max_rows_per_file=ROWS, data_storage_version="2.2").get_fragment(3), folder
    )
    unreadable = set(list(texts)[3 * ROWS :])

    config = EmbedConfig(str(folder), str(tmp_path), "t", max_reject_rate=0.3)
    counts = embed(config, SETUP).counts
    table = lance.dataset(f"{tmp_path}/t.lance", version="published").to_table().to_pylist()
    rejects = lance.dataset(f"{tmp_path}/t_rejects.lance").to_table().to_pylist()
    assert (tmp_path / "killed").exists()
    assert {row["id"]: row["text"] for row in table} == {
        key: text for key, text in texts.items() if text not in POISON and key not in unreadable
    }
    assert {texts[row["id"]]: row["message"] for row in rejects if row["stage"] == "decode"} == {
        text: f"while it was decoded, {message}" for text, message in MESSAGES.items()
    }
    assert counts.reasons == {"object_unreadable": ROWS, "decoder_crashed": 3, "decoder_timeout": 1}

    again = embed(config, SETUP).counts
    assert (again.skipped, again.skipped_rejected) == (3 * ROWS - len(POISON), len(POISON))
    assert again.reasons == {"object_unreadable": again.read}, "a damaged file is read again each night"

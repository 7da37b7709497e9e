"""A record is rejected if it ends its process again when it is decoded alone, and no other record is."""

import functools

import pyarrow as pa
import pytest

from pipelines.cluster.child import Child, ProcessLimits, one_result
from pipelines.records import DECODED_FIELDS, FLOW_FIELDS, read_schema
from pipelines.stages.decode import decode
from pipelines.stages.isolation import decode_or_reject, isolate
from tests.pipelines.poison import KILLED_ONCE, poisonous
from vista_core import EncoderSettings

LIMITS = ProcessLimits(seconds=60, memory=300 << 20)
DECODE = {"settings": EncoderSettings(), "store_images": False}


def records(*texts: str) -> pa.Table:
    rows = [{"id": f"id{number}", "text": text, "image": None} for number, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=pa.schema([*read_schema(pa.schema([])), *FLOW_FIELDS]))


@pytest.fixture
def child():
    child = Child(functools.partial(one_result, functools.partial(poisonous, **DECODE)), LIMITS)
    yield child
    child.close()


def test_a_batch_without_poison_is_decoded_as_in_this_process(child):
    batch = records("one", "two")
    assert isolate(batch, child).equals(decode(batch, **DECODE))


def test_only_the_record_at_fault_is_rejected(child, tmp_path):
    batch = records("one", "aborts", f"{KILLED_ONCE}{tmp_path / 'killed'}", "two")
    found = isolate(batch, child)
    assert found["_reason"].to_pylist() == [None, "decoder_crashed", None, None]
    assert found["_message"].to_pylist()[1] == "while it was decoded, the process died of SIGABRT"
    assert found.schema == decode(batch, **DECODE).schema
    assert [found[field.name].is_valid().to_pylist() for field in DECODED_FIELDS[:3]] == [[True, False, True, True]] * 3


def test_a_record_that_kills_one_process_by_chance_is_not_rejected(child, tmp_path):
    """First the batch is tried as a whole, so the second marker is that of the record alone."""
    killed = [f"{KILLED_ONCE}{tmp_path / str(number)}" for number in range(3)]
    found = isolate(records(*killed), child)
    assert found["_reason"].to_pylist() == [None] * 3
    assert len(list(tmp_path.iterdir())) == 3


def test_a_panic_ends_neither_this_process_nor_the_run():
    """Ray would take it for an error of the stage."""
    found = decode_or_reject(records("one", "panics"), functools.partial(poisonous, **DECODE), LIMITS)
    assert found["_reason"].to_pylist() == [None, "decoder_crashed"]
    assert "Panic: index out of bounds" in found["_message"].to_pylist()[1]


def test_an_error_of_the_stage_is_raised():
    with pytest.raises(KeyError, match="text"):
        decode_or_reject(records("one").drop_columns("text"), functools.partial(poisonous, **DECODE), LIMITS)

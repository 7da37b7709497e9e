"""Records that end the process that reads or decodes them: native libraries crash, never return, or take all memory.

The first attempt of a task runs in the Ray worker, as fast as it can; a watchdog ends a worker that hangs. Ray gives a
task whose worker died to another one. From this second attempt on, reading and decoding are done in a child process: a
batch as a whole and, if the child dies of it, record by record. The record at fault is rejected, or the part of the
file. A worker that was killed for another reason costs time, but no records.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pyarrow as pa
import ray

from pipelines.cluster.attempts import earlier_attempts
from pipelines.cluster.child import Child, ChildDiedError, ProcessLimits, one_result
from pipelines.cluster.watchdog import WATCHDOG, watched
from pipelines.reasons import DECODER_CRASHED, DECODER_TIMEOUT, Reject
from pipelines.records import IMAGE, replace_column, with_rejects
from pipelines.sources.scope import Batches
from pipelines.sources.source import Source
from pipelines.sources.units import Unit
from pipelines.stages.report import timed

Stage = Callable[[pa.Table], pa.Table]

# Far above what a sound record takes: at the limits of size, 20 seconds and 3 GiB.
DECODING = ProcessLimits(seconds=120, memory=4 << 30)
# A batch, which may come from a slow store; stores have time limits of their own.
READING = ProcessLimits(seconds=600, memory=4 << 30)


def read_or_reject(source: Source, unit: Unit, limits: ProcessLimits = READING) -> Batches:
    """`source.read(unit)`, where a part that ends the process is a part that can't be read."""
    attempts = earlier_attempts()
    if attempts:
        return source.apart(limits).read(unit)
    return source.read(unit) if attempts is None else watched(source.read(unit), limits.seconds)


@timed("decode")
def decode_or_reject(records: pa.Table, stage: Stage, limits: ProcessLimits = DECODING) -> pa.Table:
    """`stage(records)`, where `stage` is `decode`; a record that ends its process is rejected."""
    if earlier_attempts():
        return isolate(records, child_of_task(ray.get_runtime_context().get_task_id(), stage, limits))
    child_of_task.cache_clear()
    try:
        with WATCHDOG.deadline(limits.seconds):
            return stage(records)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException:  # noqa: BLE001 (a panic in Rust, for which Ray would end the run, or an exit)
        return isolate(records, Child(functools.partial(one_result, stage), limits))


@functools.lru_cache(maxsize=1)
def child_of_task(task: str | None, stage: Stage, limits: ProcessLimits) -> Child:
    """The child process in which all batches of a task are decoded; that of an earlier task ends."""
    return Child(functools.partial(one_result, stage), limits)


def isolate(records: pa.Table, child: Child) -> pa.Table:
    """The records decoded in a child process: together or, if it dies, one by one."""
    try:
        [decoded] = child.call(records)
    except ChildDiedError:
        [schema] = [empty.schema for empty in child.call(records.slice(0, 0))]
        return pa.concat_tables([decode_alone(records.slice(row, 1), child, schema) for row in range(len(records))])
    return decoded


def decode_alone(record: pa.Table, child: Child, schema: pa.Schema) -> pa.Table:
    """One record, decoded or rejected, with the columns of `schema`.

    A crash counts if it repeats in a fresh process: the first one may be the consequence of an earlier record, or have
    no cause in any record.
    """
    for is_repeated in (False, True):
        try:
            [decoded] = child.call(record)
            return decoded
        except ChildDiedError as death:
            if death.timed_out:
                return rejected(record, DECODER_TIMEOUT.reject(f"while it was decoded, {death}"), schema)
            if is_repeated:
                return rejected(record, DECODER_CRASHED.reject(f"while it was decoded, {death}"), schema)
    raise AssertionError("the second death ends the loop")


def rejected(record: pa.Table, reject: Reject, schema: pa.Schema) -> pa.Table:
    """A record with the columns that `decode` adds, empty."""
    record = replace_column(with_rejects(record, {0: reject}), IMAGE, pa.nulls(1, record[IMAGE].type))
    for field in schema:
        if field.name not in record.column_names:
            record = record.append_column(field, pa.nulls(1, field.type))
    return record.select(schema.names)

"""Building a vector index on workers: a model is trained, segments are built with it, and merged into one.

Each worker opens the same version of the table. Nothing is committed: no reader sees the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lance.dataset import Index
from lance.indices import IndicesBuilder
from lance.lance import indices  # the only place that has build_rq_model

from pipelines.cluster.calls import Workers, one
from pipelines.events import Events, IndexTrained, SegmentBuilt, SegmentsMerged
from pipelines.index.choose import Choice, Vectors
from pipelines.index.pieces import Model, Pieces, Recipe, Segment, files_of
from pipelines.tables.dataset import TableVersion

MOST_SEGMENTS: Final = 64
MERGEABLE: Final = ("IVF_RQ", "IVF_PQ")  # the quantizers of other kinds are trained by each segment for itself


@dataclass(frozen=True)
class Build:
    """What a vector index is built of."""

    table: TableVersion
    column: str
    vectors: Vectors
    choice: Choice

    @property
    def recipe(self) -> Recipe:
        """What its model has to be trained for."""
        dataset = self.table.open()
        [field] = [each for each in dataset.lance_schema.fields() if each.name() == self.column]
        metadata = dataset.schema.field(self.column).metadata or {}
        space = sorted(
            (key.decode(errors="replace"), value.decode(errors="replace")) for key, value in metadata.items()
        )
        assert self.choice.kind is not None, "there is no index to be built"
        return Recipe(
            column=self.column,
            field=field.id(),
            space=repr(space),
            metric=self.vectors.metric,
            kind=self.choice.kind,
            partitions=self.choice.partitions,
            bits=self.choice.bits,
            sub_vectors=self.choice.sub_vectors,
        )


def build(build: Build, pieces: Pieces, workers: Workers, events: Events) -> Index:
    """The files of the index, which covers every row of the version, and is not committed.

    What an earlier build left in `pieces` is used as far as the table still has what it was made of.
    """
    files = files_of(build.table.open())
    model = pieces.model(build.recipe, files)
    if model is None:
        model = one(workers, train, build)
        pieces.keep_model(model, files)
    events.report(IndexTrained())
    segments = pieces.segments(model, files)
    taken = {fragment for segment in segments for fragment in segment.files}
    groups = groups_of(build, sorted(files.keys() - taken))
    for number, index in workers(build_segment, [(build, model, group) for group in groups]):
        segment = Segment(index, {fragment: files[fragment] for fragment in groups[number]})
        pieces.keep_segment(segment, model)
        segments.append(segment)
        events.report(SegmentBuilt(rows_of(build, groups[number])))
    merged = one(workers, merge, build, [segment.index for segment in segments])
    events.report(SegmentsMerged())
    return merged


def rows_of(build: Build, fragments: Sequence[int]) -> int:
    """Rows of some fragments."""
    wanted = set(fragments)
    return sum(each.count_rows() for each in build.table.open().get_fragments() if each.fragment_id in wanted)


def groups_of(build: Build, fragments: Sequence[int]) -> list[list[int]]:
    """The fragments of each segment, neighbours together. Segments that can't be merged must be one."""
    if not fragments:
        return []
    if build.choice.kind not in MERGEABLE:
        return [list(fragments)]
    least = max(build.choice.segment_rows, build.vectors.rows // MOST_SEGMENTS)
    rows = {each.fragment_id: each.count_rows() for each in build.table.open().get_fragments()}
    groups: list[list[int]] = [[]]
    for fragment in fragments:
        if sum(rows[each] for each in groups[-1]) >= least:
            groups.append([])
        groups[-1].append(fragment)
    return groups


def train(build: Build) -> Model:
    """Find the partitions and train the quantizer, on a sample of the rows. Runs on a worker."""
    table, choice, recipe = build.table.open(), build.choice, build.recipe
    builder = IndicesBuilder(table, build.column)
    ivf = builder.train_ivf(choice.partitions, distance_type=recipe.metric, sample_rate=choice.sample_rate)
    if choice.kind == "IVF_RQ":
        rotation = indices.build_rq_model(build.vectors.dimension, choice.bits)
        return Model(recipe, ivf.centroids, rotation=rotation)
    if choice.kind == "IVF_PQ":
        rate = max(1, min(256, build.vectors.rows // 256))
        pq = builder.train_pq(ivf, choice.sub_vectors, sample_rate=rate)
        return Model(recipe, ivf.centroids, codebook=pq.codebook)
    return Model(recipe, ivf.centroids)


def build_segment(build: Build, model: Model, fragments: Sequence[int]) -> Index:
    """Write the segment of some fragments. Runs on a worker."""
    choice, options = build.choice, dict[str, Any]()
    if choice.kind == "IVF_RQ":
        options = {"num_bits": choice.bits, "rabitq_model": model.rotation}
    elif choice.kind == "IVF_PQ":
        options = {"num_sub_vectors": choice.sub_vectors, "pq_codebook": model.codebook}
    assert choice.kind is not None, "there is no index to be built"
    return build.table.open().create_index_uncommitted(
        build.column,
        choice.kind,
        metric=model.recipe.metric,
        num_partitions=len(model.centroids),
        ivf_centroids=model.centroids,
        fragment_ids=list(fragments),
        **options,
    )


def merge(build: Build, segments: list[Index]) -> Index:
    """Merge segments into one, since Lance merges no fragments of different segments. Runs on a worker."""
    return segments[0] if len(segments) == 1 else build.table.open().merge_existing_index_segments(segments)


def named(index: Index, name: str) -> Index:
    """An index that is not committed yet, under another name."""
    return dataclasses.replace(index, name=name)

"""What a probe measures, and what that says about the machines that a run wants."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cluster.resources import Cluster, Resources, share_out
from pipelines.forecast.probe import Block, Measured, ProbeLimits, after_warming_up, is_known
from pipelines.forecast.sample import PLACES, ROWS, bounded, mixed, spread
from pipelines.forecast.sizing import Sizing

LIMITS = ProbeLimits(least=15.0, most=60.0)


def on_gpus(gpus: int, cpus: int) -> Resources:
    return share_out(Cluster(cpus, gpus, 1), "auto", None)


def steady(seconds: float, apart: float, rows: int = 64, startup: float = 10.0) -> list[tuple[float, int]]:
    return [(startup + at, rows) for at in np.arange(0, seconds + 1e-9, apart).tolist()]


def test_a_probe_ends_when_its_speed_is_steady():
    assert not is_known(steady(14.0, 0.5), LIMITS)
    assert is_known(steady(15.0, 0.5), LIMITS)
    slowing = [*steady(10.0, 0.5), *((20.0 + at, 10) for at in np.arange(0.5, 6.0, 0.5).tolist())]
    assert not is_known(slowing, LIMITS)
    assert not is_known(steady(40.0, 20.0), LIMITS), "three blocks tell no speed"
    assert is_known(steady(60.0, 20.0), LIMITS), "longer than a minute nobody waits"


@given(st.floats(0.01, 5.0), st.floats(0.1, 60.0), st.integers(1, 4096))
def test_the_speed_is_that_after_the_first_third(apart, startup, rows):
    blocks = [Block(startup + number * apart, rows, {"decode": apart, "encode": apart / 2}) for number in range(300)]
    warm = [Block(block.after + 5.0, block.encoded, block.busy) for block in blocks]
    found = after_warming_up([Block(startup, rows, {"decode": 100.0}), *warm])
    assert found.startup == startup
    assert found.side_by_side
    assert found.rows_per_second == pytest.approx(rows / apart, rel=1e-6)
    assert found.busy["decode"] == pytest.approx(found.seconds, rel=1e-6), "the start of a process does not count"


def test_few_rows_are_measured_one_stage_after_the_other():
    found = after_warming_up([Block(5.0, 8, {"decode": 1.0, "encode": 3.0})])
    assert (found.rows_per_second, found.side_by_side) == (2.0, False)
    assert after_warming_up([]).rows_per_second == 0


def test_an_encoder_that_waits_wants_more_cores():
    """The figures of docs/performance.md: 16 cores that decode 236 photographs a second, a GPU that encodes 5,900."""
    uses = on_gpus(1, 16)
    seen = Measured(30.0, 37_760, 10.0, {"decode": 160.0, "encode": 37_760 / 5_900})
    sizing = Sizing(seen, uses, cpus=16)
    assert (sizing.cores_wanted, sizing.bottleneck) == (25, "decode")
    assert sizing.encoder_busy == pytest.approx(0.64)
    decoding, limit = sizing.describe()
    assert decoding == (
        "decoding: 236.0 rows/s a core; encoding: 5,900.0 rows/s an encoder, which wants 25 decoding cores and has 16.0"
    )
    assert limit == "bottleneck: decoding; encoders are busy 64% of the time"


def test_an_encoder_that_never_waits_is_the_bottleneck():
    """With two batches at a time each call takes twice as long as the GPU works on it."""
    seen = Measured(30.0, 12_000, 10.0, {"decode": 40.0, "encode": 40.0, "fetch": 300.0})
    sizing = Sizing(seen, on_gpus(2, 16), cpus=16)
    assert sizing.encoded_per_encoder == 600
    assert (sizing.bottleneck, sizing.cores_wanted) == ("encode", 2)


def test_images_that_come_too_slowly_are_the_bottleneck():
    seen = Measured(30.0, 1_000, 10.0, {"decode": 5.0, "encode": 2.0, "fetch": 90.0})
    assert Sizing(seen, on_gpus(1, 16), cpus=16).bottleneck == "fetch"


def test_if_no_stage_has_much_to_do_the_batches_between_them_are_the_bottleneck():
    """Texts and a model of next to nothing on two cores: what was measured when this was written."""
    seen = Measured(7.0, 16_800, 19.0, {"decode": 6.8, "encode": 11.8})
    sizing = Sizing(seen, share_out(Cluster(4, 0, 1), "cpu", None), cpus=2)
    assert sizing.bottleneck == "transport"
    assert "--transport-rows" in sizing.describe()[1]


def test_on_cpus_the_stages_share_the_cores():
    seen = Measured(10.0, 1_000, 10.0, {"decode": 3.0, "encode": 9.9})
    decoding, limit = Sizing(seen, share_out(Cluster(4, 0, 1), "cpu", None), cpus=2).describe()
    assert "(on the same cores, while both are at work)" in decoding
    assert limit == "bottleneck: encoding; encoders are busy 99% of the time"


@given(st.integers(1, 4), st.integers(1, 10**6), st.floats(0.01, 1e4), st.floats(0.01, 1e4), st.floats(0.1, 100.0))
def test_so_many_cores_are_enough_and_one_less_is_not(gpus, rows, decode, encode, seconds):
    sizing = Sizing(Measured(1.0, rows, seconds, {"decode": decode, "encode": encode}), on_gpus(gpus, 16), 16)
    cores = sizing.cores_wanted
    assert cores * sizing.decoded_per_core >= sizing.encoded_per_encoder * (1 - 1e-9)
    assert (cores - 1) * sizing.decoded_per_core < sizing.encoded_per_encoder * (1 + 1e-9)
    assert 0 < sizing.encoder_busy <= 1


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=300).filter(any))
def test_a_source_is_looked_at_in_places_that_are_spread_over_its_rows(rows):
    places = spread(rows)
    assert 0 < sum(places.values()) <= ROWS
    assert len(places) <= PLACES
    assert all(0 < few <= rows[number] for number, few in places.items())
    step = sum(rows) / PLACES
    for number, many in enumerate(rows):
        if many > step:
            assert number in places, "a unit that long can't be missed"


kinds = st.lists(st.tuples(st.floats(0.0, 1e6), st.integers(0, 500)), min_size=1, max_size=4)


@given(kinds.filter(lambda parts: any(weight and number for weight, number in parts)))
def test_each_part_has_its_share_of_the_sample(parts):
    tables = [
        (weight, pa.table({"part": pa.array([at] * number, pa.int64()), "row": pa.array(range(number), pa.int64())}))
        for at, (weight, number) in enumerate(parts)
    ]
    found = mixed(tables)["part"].to_pylist()
    total = sum(weight for weight, number in parts if number)
    wanted = min(ROWS, sum(number for weight, number in parts if weight))
    for at, (weight, number) in enumerate(parts):
        expected = wanted * weight / total if number else 0
        assert abs(found.count(at) - expected) <= 1


def test_a_sample_of_large_images_stays_small():
    images = pa.table({"image": [bytes(1 << 20)] * 256})
    assert bounded(images, 1.0).nbytes <= 64 << 20
    assert bounded(images, 0.25).num_rows == 15
    assert mixed([(1.0, images)]).nbytes <= 64 << 20
    assert bounded(images.slice(0, 0), 1.0).num_rows == 0
    assert bounded(images, 1e-9).num_rows == 1

"""Reservations fit the cluster, or the user is told what to change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cluster.resources import Cluster, share_out
from vista_core import UsageError

CLUSTERS = st.builds(
    Cluster,
    cpus=st.integers(0, 512).map(float) | st.sampled_from([0.5, 1.5]),
    gpus=st.integers(0, 64).map(float) | st.just(0.5),
    nodes=st.integers(0, 16),
    autoscales=st.booleans(),
)
DEVICES = st.sampled_from(["auto", "cpu", "cuda"])


@given(CLUSTERS, DEVICES, st.none() | st.integers(1, 600))
def test_reservations_never_exceed_the_cluster(cluster, device, num_actors):
    try:
        uses = share_out(cluster, device, num_actors)
    except UsageError as refused:
        assert "--num-actors" in str(refused) or "--device cuda" in str(refused)
        return
    every_stage_once = uses.read_cpus + uses.fetch_cpus + uses.decode_cpus
    assert uses.actors * uses.actor_cpus + every_stage_once <= cluster.cpus
    assert uses.actors * uses.actor_gpus <= cluster.gpus
    assert min(uses.actors, uses.read_cpus, uses.fetch_cpus, uses.decode_cpus) > 0
    assert (uses.actor_cpus > 0) != (uses.actor_gpus > 0), "Ray Data accepts one of the two, not both"
    reserved = {uses.read_cpus, uses.fetch_cpus, uses.decode_cpus, uses.actor_cpus}
    assert len(reserved) == 4, "Ray Data fuses stages with equal reservations"
    if num_actors is None:
        assert uses.most_actors == (None if uses.device == "cuda" and cluster.autoscales else uses.actors)
    else:
        assert uses.actors <= num_actors == uses.most_actors
        assert uses.actors == num_actors or cluster.autoscales
    assert uses.transport_rows > 0
    assert uses.actors_per_node * max(1, cluster.nodes) >= uses.actors
    assert uses.device == "cpu" or uses.actor_gpus >= 1, "two encoders would share a GPU"


@given(CLUSTERS, DEVICES)
def test_reading_leaves_the_cores_to_decoding(cluster, device):
    try:
        uses = share_out(cluster, device, None)
    except UsageError:
        return
    assert uses.readers * (uses.read_cpus + uses.fetch_cpus) <= max(0.301, 0.151 * cluster.cpus)


@given(CLUSTERS)
def test_a_gpu_is_used_if_there_is_one_and_required_if_asked_for(cluster):
    if cluster.gpus < 1:
        with pytest.raises(UsageError, match=r"--device cuda.*no GPU"):
            share_out(cluster, "cuda", None)
    for device in ("auto", "cpu"):
        try:
            uses = share_out(cluster, device, None)
        except UsageError:
            continue
        assert uses.device == ("cuda" if device == "auto" and cluster.gpus >= 1 else "cpu")


@pytest.mark.parametrize("cpus", [2, 4, 64])
def test_one_machine_without_gpus_gets_an_encoder_that_uses_all_of_it(cpus):
    uses = share_out(Cluster(cpus, 0, 1), "auto", None)
    assert (uses.actors, uses.actors_per_node, uses.actor_gpus) == (1, 1, 0)


def test_each_node_without_gpus_gets_an_encoder_with_its_cores():
    uses = share_out(Cluster(cpus=32, gpus=0, nodes=4), "auto", None)
    assert (uses.actors, uses.actors_per_node) == (4, 1)


def test_each_gpu_gets_an_encoder():
    uses = share_out(Cluster(cpus=64, gpus=8, nodes=2), "auto", None)
    assert (uses.device, uses.actors, uses.actor_gpus, uses.actors_per_node) == ("cuda", 8, 1, 4)


@pytest.mark.parametrize(
    "num_actors, batches, actors, most, text",
    [
        (None, 100, 2, 100, "2 GPU encode actors, up to 100 as nodes join"),
        (8, 100, 2, 8, "2 GPU encode actors, up to 8 as nodes join"),
        (8, 2, 2, 2, "2 GPU encode actors"),
        (1, 100, 1, 1, "1 GPU encode actor"),
        (None, 0, 1, 1, "1 GPU encode actor"),
    ],
)
def test_gpus_that_an_autoscaler_adds_are_used_if_there_are_batches_for_them(num_actors, batches, actors, most, text):
    uses = share_out(Cluster(64, 2, 2, autoscales=True), "cuda", num_actors).limited_to(batches)
    assert (uses.actors, uses.most_actors, str(uses)) == (actors, most, text)


def test_more_actors_than_gpus_are_refused_with_both_numbers():
    with pytest.raises(UsageError, match=r"--num-actors 3: .* has 2"):
        share_out(Cluster(cpus=64, gpus=2, nodes=1), "auto", 3)


@pytest.mark.parametrize("cluster", [Cluster(2, 0, 1), Cluster(1, 8, 1), Cluster(0, 0, 1)])
def test_actors_that_would_starve_the_others_are_refused_with_what_to_change(cluster):
    with pytest.raises(UsageError, match="Lower --num-actors or add CPUs"):
        share_out(cluster, "auto", 8)


def test_only_a_gpu_has_two_batches_at_the_same_time():
    cluster = Cluster(cpus=16, gpus=1, nodes=1)
    assert share_out(cluster, "cuda", None).actor_calls == 2
    assert share_out(cluster, "cpu", None).actor_calls == 1

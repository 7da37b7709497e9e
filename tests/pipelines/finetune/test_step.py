"""A step's loss and gradients: the same for any division of a batch, and for any number of processes."""

from __future__ import annotations

import dataclasses
import shutil
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from pipelines.finetune.batches import Decoder, Skipped
from pipelines.finetune.images import ImageBytes
from pipelines.finetune.layout import read_layout
from pipelines.finetune.plan import Plan
from pipelines.finetune.processes import Processes
from pipelines.finetune.step import encode_part, loss_and_backward, parts_of, recompute_layers
from tests.pipelines.finetune.drawn import edit_lines, name_of, write_data, write_lines
from tests.pipelines.finetune.small import FLOAT32, TINY, Small, gradients, largest_difference, model, small
from vista_core import EncoderSettings, Preprocessor

ALONE = Processes()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return small(tmp_path_factory.mktemp("pairs") / "train")


def trained_by(batch, computation=FLOAT32, of=None):
    of = model() if of is None else of
    return loss_and_backward(of, batch, computation, ALONE), gradients(of)


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_loss_and_gradients_are_those_of_one_plain_graph(pairs, step):
    batch, of = pairs.batch(step), model()
    inputs = batch.inputs
    vectors = torch.empty(len(inputs.ids), 128)
    for number, ids in enumerate(inputs.ids):  # one by one, each image anew
        image = inputs.image_of[number]
        images = None if image < 0 else torch.from_numpy(inputs.images[image][None])
        vectors[number] = of(torch.from_numpy(ids), np.array([len(ids)]), images)
    scores = vectors[batch.queries] @ vectors[batch.candidates].T / 0.02
    place = {int(item): column for column, item in enumerate(batch.candidates)}
    targets = torch.tensor([place[int(each)] for each in batch.positives])
    expected = F.cross_entropy(scores, targets)
    expected.backward()
    loss, found = trained_by(batch)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert largest_difference(found, gradients(of)) < 1e-4


@pytest.mark.parametrize("tokens", [1, 60, 500])
def test_cached_gradients_are_those_of_the_whole_batch(pairs, tokens):
    batch = pairs.batch(1)
    assert len(parts_of(batch.inputs, 16, tokens)) > 1
    loss, whole = trained_by(batch)
    cached_loss, cached = trained_by(batch, dataclasses.replace(FLOAT32, tokens=tokens))
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    assert largest_difference(cached, whole) < 1e-4


def test_layers_that_are_computed_again_give_the_same(pairs):
    batch, again = pairs.batch(1), model()
    recompute_layers(again)
    loss, kept = trained_by(batch)
    loss_again, recomputed = trained_by(batch, of=again)
    assert loss_again == loss
    assert largest_difference(recomputed, kept) < 1e-6


def test_bfloat16_products_keep_float32_weights_and_gradients(pairs):
    batch, of = pairs.batch(1), model()
    loss, exact = trained_by(batch)
    rounded_loss, rounded = trained_by(batch, dataclasses.replace(FLOAT32, dtype=torch.bfloat16), of)
    assert {each.dtype for each in of.parameters()} == {torch.float32}
    assert rounded_loss != loss
    assert rounded_loss == pytest.approx(loss, rel=0.05)
    flat, flat_rounded = (np.concatenate([each.ravel() for each in found.values()]) for found in (exact, rounded))
    cosine = flat @ flat_rounded / np.linalg.norm(flat) / np.linalg.norm(flat_rounded)
    assert cosine > 0.98


def test_a_frozen_text_tower_gets_no_gradients_and_the_vision_tower_the_same(pairs):
    batch, frozen = pairs.batch(1), model()
    frozen.text.requires_grad_(False)
    loss, found = trained_by(batch, of=frozen)
    all_loss, every = trained_by(batch)
    assert loss == all_loss
    assert not [name for name in found if name.startswith("text.")]
    assert largest_difference(found, {name: every[name] for name in found}) < 1e-6


def test_each_image_goes_through_the_vision_tower_once(pairs):
    step = next(step for step in range(9) if pairs.prepared.tasks[pairs.plan.of(step).task].edits)
    batch, of, seen = pairs.batch(step), model(), []
    of.vision.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    loss_and_backward(of, batch, FLOAT32, ALONE)
    assert sum(seen) == len(batch.inputs.images) < len(batch.inputs.ids)
    assert len(set(batch.inputs.keys.tolist())) == len(batch.inputs.ids)


def test_pairs_whose_image_is_damaged_are_skipped_and_counted(tmp_path):
    folder = write_data(tmp_path / "train")
    damaged = name_of("star", "red")
    (folder / damaged).write_bytes(b"no image")
    lines = [line for line in edit_lines() if damaged in (line["query"][0], line["positive"])]
    others = [line | {"hard_negative": [damaged]} for line in edit_lines() if line not in lines][:3]
    write_lines(folder / "edit_image.jsonl", lines[:2] + others)
    (folder / "t2it.jsonl").unlink()
    batch = Small(read_layout(str(folder)), Plan((5,), 5, 0, 0)).batch(0)
    assert len(batch.queries) == len(batch.positives) == 3
    expected = {Skipped("pair", "image_undecodable", damaged): 2}
    assert batch.skipped == expected | {Skipped("hard negative", "image_undecodable", damaged): 3}
    loss, _ = trained_by(batch)
    assert loss is not None


def test_an_image_that_has_gone_is_skipped_but_a_store_that_fails_is_an_error(tmp_path):
    """Otherwise an outage would train a model with a part of the data."""
    folder = write_data(tmp_path / "train")
    (folder / "t2it.jsonl").unlink()
    write_lines(folder / "edit_image.jsonl", edit_lines()[:5])
    small = Small(read_layout(str(folder)), Plan((5,), 5, 0, 0))
    gone = folder / edit_lines()[0]["positive"]
    gone.unlink()
    batch = small.batch(0)
    assert Skipped("pair", "image_unreadable", gone.relative_to(folder).as_posix()) in batch.skipped
    gone.mkdir()  # reading it fails otherwise than by its absence
    with pytest.raises(IsADirectoryError):
        small.batch(0)


def test_a_batch_without_a_usable_pair_has_no_loss(pairs):
    empty = dataclasses.replace(pairs.batch(0), queries=np.empty(0, np.int64), positives=np.empty(0, np.int64))
    assert loss_and_backward(model(), empty, FLOAT32, ALONE) is None


def test_vectors_are_those_of_the_encoder(pairs):
    batch, of = pairs.batch(1), model().eval()
    inputs = batch.inputs
    from vista_core.encoder import encode_tensors

    pixels = [None if image < 0 else inputs.images[image] for image in inputs.image_of]
    expected = encode_tensors(of, inputs.ids, pixels)
    with torch.no_grad():
        for part in parts_of(inputs, 16, 500):
            found = encode_part(of, inputs, part, torch.float32)
            torch.testing.assert_close(found, expected[torch.from_numpy(part.rows)], rtol=0, atol=1e-5)


def in_processes(rank, count, port, folder, found):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    pairs = small(folder / str(rank))
    for step in (0, 1):
        of = model()
        loss = loss_and_backward(of, pairs.batch(step, rank, count), FLOAT32, Processes.joined())
        found.put((rank, step, loss, gradients(of)))
    dist.barrier()


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_processes_gives_the_same_loss_and_gradients(tmp_path, pairs, count):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = mp.get_context("spawn").SimpleQueue()
    context = mp.spawn(in_processes, (count, port, tmp_path, found), count, join=False)
    results = [found.get() for _ in range(2 * count)]
    context.join()
    for rank, step, loss, of_rank in results:
        expected, alone = trained_by(pairs.batch(step))
        assert loss == pytest.approx(expected, rel=1e-5), rank
        assert largest_difference(of_rank, alone) < 1e-4


def test_decoded_images_are_kept_as_far_as_memory_allows(tmp_path):
    folder = write_data(tmp_path / "train")
    images = read_layout(str(folder)).images
    preprocessor = Preprocessor.load(EncoderSettings(TINY))
    decoder = Decoder(preprocessor, ImageBytes(images), kept_bytes=2 * 64 * 64 * 3)
    before = [decoder.decode(number) for number in range(3)]
    shutil.rmtree(folder / "images")
    assert all((decoder.decode(number) == before[number]).all() for number in range(2))
    with pytest.raises(FileNotFoundError):
        decoder.decode(2)

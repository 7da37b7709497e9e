import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.vista_core.conftest import IMAGES
from vista_core import Encoder, EncoderSettings, Preprocessor, Record, RecordError, UsageError
from vista_core.batching import TokenBudget
from vista_core.encoder import encode_tensors
from vista_core.model import VistaModel

SAME = 1e-5


def png(color: str = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (80, 70), color).save(buffer, "PNG")
    return buffer.getvalue()


def test_each_record_gives_one_vector_of_norm_one(tiny_encoder: Encoder, photo: bytes):
    vectors = tiny_encoder.encode([Record("a red apple"), Record(image=photo), Record("a red apple", photo)])
    assert vectors.shape == (3, tiny_encoder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 0.01
    assert np.abs(vectors[1] - vectors[2]).max() > 0.01


def test_vectors_do_not_depend_on_order_or_on_other_records(tiny_encoder: Encoder):
    files = sorted(IMAGES.iterdir())
    records = [Record(f"number {i} " * (i + 1), files[i] if i % 3 else None) for i in range(len(files))]
    records += [Record(image=path) for path in files]
    alone = np.concatenate([tiny_encoder.encode([record]) for record in records])
    order = np.random.default_rng(1).permutation(len(records))
    together = tiny_encoder.encode([records[i] for i in order])
    np.testing.assert_allclose(together, alone[order], atol=SAME)


def test_an_image_may_be_bytes_a_path_a_string_or_an_open_image(tiny_encoder: Encoder, tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    sources = [path.read_bytes(), path, str(path), Image.open(path)]
    vectors = tiny_encoder.encode([Record(image=source) for source in sources])
    np.testing.assert_allclose(vectors, vectors[:1].repeat(4, axis=0), atol=SAME)


def test_encode_tensors_gives_the_same_vectors_as_encode(tiny_encoder: Encoder, photo: bytes):
    preprocessor = Preprocessor.load(EncoderSettings())
    tokens = preprocessor.tokenize(["a red apple", None, ""], [False, True, True])
    pixels = [None, preprocessor.decode_image(photo), preprocessor.decode_image(photo)]
    vectors = tiny_encoder.encode_tensors([item.input_ids for item in tokens], pixels)
    expected = tiny_encoder.encode([Record("a red apple"), Record(image=photo), Record("", photo)])
    np.testing.assert_allclose(vectors, expected, atol=SAME)


def test_fast_pixels_give_nearly_the_vectors_of_exact_ones(tiny_encoder: Encoder):
    checker = io.BytesIO()  # the worst case known
    Image.open(IMAGES / "02_checker_300x900.png").save(checker, "JPEG", quality=95)
    records = [Record("something", image) for image in (*sorted(IMAGES.iterdir()), checker.getvalue())]
    exact = Encoder.load(EncoderSettings(device="cpu", resize="exact"))
    cosines = (exact.encode(records) * tiny_encoder.encode(records)).sum(1)
    assert cosines[:-1].min() >= 0.9999
    assert cosines[-1] >= 0.9995


def test_no_records_give_no_vectors(tiny_encoder: Encoder):
    assert tiny_encoder.encode([]).shape == (0, tiny_encoder.dimension)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record(), "empty_record"),
        (Record(""), "empty_record"),
        (Record("\ud800"), "text_not_utf8"),
        (Record(image=b"no image"), "image_undecodable"),
        (Record("with text", png()[:60]), "image_truncated"),
        (Record(image="/no/such/file.png"), "image_unreadable"),
    ],
)
def test_a_bad_record_is_an_error_with_its_reason_and_index(tiny_encoder: Encoder, record: Record, reason: str):
    with pytest.raises(RecordError) as caught:
        tiny_encoder.encode([Record("fine"), record])
    assert (caught.value.reason, caught.value.index) == (reason, 1)


def test_alpha_decides_how_a_transparent_image_is_encoded():
    encoders = [Encoder.load(EncoderSettings(alpha=alpha, device="cpu")) for alpha in ("drop", "white")]
    hidden = Record(image=png((255, 0, 0, 0), "RGBA"))
    black, white = (encoder.encode([hidden]) for encoder in encoders)
    # resizing weights colours by their alpha, so a fully transparent image is black to the reference
    np.testing.assert_allclose(black, encoders[0].encode([Record(image=png("black"))]), atol=SAME)
    np.testing.assert_allclose(white, encoders[0].encode([Record(image=png("white"))]), atol=SAME)


class SmallDevice:
    """A model on a device whose memory holds a batch of at most `capacity` items."""

    def __init__(self, model: VistaModel, capacity: int) -> None:
        self.model = model
        self.config = model.config
        self.device = model.device
        self.capacity = capacity
        self.sizes: list[int] = []  # of the batches tried

    def __call__(self, input_ids: torch.Tensor, lengths: np.ndarray, pixel_values: torch.Tensor | None) -> torch.Tensor:
        self.sizes.append(len(lengths))
        if len(lengths) > self.capacity:
            raise torch.OutOfMemoryError("no more")
        return self.model(input_ids, lengths, pixel_values)


def on_small_device(encoder: Encoder, capacity: int) -> tuple[Encoder, SmallDevice]:
    device = SmallDevice(encoder.model, capacity)
    return Encoder(device, encoder.preprocessor, encoder.identity, TokenBudget(10_000)), device


def test_a_batch_too_large_for_the_device_is_halved(tiny_encoder: Encoder, photo: bytes):
    records = [Record(f"word {'more ' * i}", photo) for i in range(9)]
    expected = tiny_encoder.encode(records)
    encoder, device = on_small_device(tiny_encoder, capacity=2)
    np.testing.assert_allclose(encoder.encode(records), expected, atol=SAME)
    assert device.sizes[0] == 9
    tried = len(device.sizes)
    np.testing.assert_allclose(encoder.encode(records), expected, atol=SAME)
    assert max(device.sizes[tried:]) <= 2, "the smaller budget is kept"


def test_one_item_too_large_for_the_device_is_an_error(tiny_encoder: Encoder):
    encoder, device = on_small_device(tiny_encoder, capacity=0)
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode([Record("one"), Record("two")])
    assert device.sizes[-1] == 1, "it is raised for a single item only"


def test_settings_and_records_can_be_pickled_for_workers():
    settings = EncoderSettings(alpha="white", max_tokens=40)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert pickle.loads(pickle.dumps(Record("a", b"b"))) == Record("a", b"b")


def test_asking_for_a_gpu_on_a_machine_without_one_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match=r"--device cuda was asked for, but this machine has none"):
        Encoder.load(EncoderSettings(device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("dtype", "cosine"), [("float32", 0.99999), ("bfloat16", 0.995)])
def test_a_gpu_gives_the_same_vectors(tiny_encoder: Encoder, photo: bytes, dtype: str, cosine: float):
    encoder = Encoder.load(EncoderSettings(device="cuda", dtype=dtype))
    records = [Record(f"word {'more ' * i}", photo if i % 2 else None) for i in range(9)]
    assert ((encoder.encode(records) * tiny_encoder.encode(records)).sum(1) >= cosine).all()


def test_inference_tokens_set_the_budget():
    assert Encoder.load(EncoderSettings(device="cpu", inference_tokens=77)).budget.tokens == 77


def test_the_budget_does_not_change_vectors(tiny_encoder: Encoder):
    ids = [np.array([2, *range(10, 10 + length), 3]) for length in range(1, 60)]
    vectors = [
        encode_tensors(tiny_encoder.model, ids, [None] * len(ids), TokenBudget(tokens)) for tokens in (1, 200, 10**9)
    ]
    for other in vectors[1:]:
        torch.testing.assert_close(vectors[0], other, rtol=0, atol=SAME)

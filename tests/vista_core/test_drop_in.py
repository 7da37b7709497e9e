import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.vista_core.conftest import BASE, IMAGES, M3, TINY
from tests.vista_core.test_tokenizer import UNCASED, text_folder, unigram
from vista_core import MODELS, Encoder, Record, UsageError, Visualized_BGE
from vista_core.checkpoint import released_shapes
from vista_core.config import EncoderSettings, ModelConfig, hugging_face_config
from vista_core.hub import BUILT_IN
from vista_core.synthetic import draw

A, B = str(IMAGES / "00_rgb_640x480.jpg"), str(IMAGES / "16_rgb_224x224.png")
SAME = 1e-5


@pytest.fixture(scope="module")
def model() -> Visualized_BGE:
    return Visualized_BGE("vista-tiny", device="cpu")


def close(actual: torch.Tensor, expected) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=0, atol=SAME)


def test_it_encodes_like_the_exact_encoder(model: Visualized_BGE):
    encoder = Encoder.load(EncoderSettings(device="cpu", resize="exact"))
    expected = encoder.encode([Record("in the dark"), Record(image=A), Record("in the dark", A)])
    assert model.encode(text="in the dark").shape == (1, 128)
    close(model.encode(text="in the dark"), expected[:1])
    close(model.encode(image=A), expected[1:2])
    close(model.encode(image=A, text="in the dark"), expected[2:])


def test_lists_give_one_vector_for_each_item(model: Visualized_BGE):
    together = model.encode(image=[A, Image.open(B), Path(A).read_bytes()], text=["one", "two", ""])
    assert together.shape == (3, 128)
    apart = [model.encode(image=A, text="one"), model.encode(image=B, text="two"), model.encode(image=A)]
    close(together, torch.cat(apart))
    assert model.encode(text=["one", "two"]).shape == (2, 128)
    assert model.encode(image=[A]).shape == (1, 128)


def test_lists_of_different_lengths_are_an_error(model: Visualized_BGE):
    with pytest.raises(UsageError, match="2 images and 1 texts"):
        model.encode(image=[A, B], text="one")


def test_without_image_and_text_the_result_is_none_as_in_the_reference(model: Visualized_BGE):
    assert model.encode() is None


def test_the_methods_of_a_module_work_and_change_no_vector(model: Visualized_BGE):
    assert isinstance(model, torch.nn.Module)
    expected = model.encode(text="in the dark")
    with torch.no_grad():
        for same in (model.eval(), model.train(), model.to("cpu"), model.float()):
            assert same is model
            close(model.encode(text="in the dark"), expected)
    model.eval()
    assert not expected.requires_grad
    (expected + 1).mul_(2)  # an ordinary tensor, not one of inference mode


def test_the_tensor_methods_agree_with_encode(model: Visualized_BGE):
    images = torch.stack([model.preprocess_val(Image.open(path)) for path in (A, B)])
    close(model.encode_image(images), model.encode(image=[A, B]))
    texts = ["one", "three words now"]
    tokens = model.preprocessor.tokenize(texts, [True, True])
    width = max(len(item.input_ids) for item in tokens)
    padded = np.array([np.pad(item.input_ids, (0, width - len(item.input_ids))) for item in tokens])
    lengths = torch.tensor([len(item.input_ids) for item in tokens])
    prompts = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.arange(width) < lengths[:, None]}
    close(model.encode_text(prompts), model.encode(text=texts))
    close(model.encode_mm(images, prompts), model.encode(image=[A, B], text=texts))
    close(model.compute_similarity(model.encode(text=texts), model.encode(text="one"))[0, 0], 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentence_pooling_method": "mean"}, "'mean'"),
        ({"negatives_cross_device": True}, "negatives_cross_device"),
        ({"normlized": False}, "normlized"),
        ({"model_name_bge": "bert-large"}, "BAAI/bge-base-en-v1.5, BAAI/bge-m3"),
        ({"model_name_bge": None}, "model_name_bge None"),
        ({"device": "gpu"}, "--device"),
    ],
)
def test_unsupported_arguments_are_usage_errors(arguments: dict, message: str):
    with pytest.raises(UsageError, match=message):
        Visualized_BGE(**{"model_name_bge": "vista-tiny"} | arguments)


def write_repetitive(config: ModelConfig, path: Path) -> None:
    """A `.pth` with the released keys and shapes, whose tensors repeat one value along each row.

    torch saves each such value once, so that a file of a released size takes 3 MB and no time to draw.
    """
    state = {
        key: torch.from_numpy(draw(key, shape[:1])).view(-1, *[1] * (len(shape) - 1)).expand(shape)
        for key, shape in released_shapes(config).items()
    }
    torch.save(state, path)


@pytest.mark.parametrize(
    ("name", "model", "tokenizer"),
    [
        ("BAAI/bge-base-en-v1.5", BASE, lambda: (UNCASED / "tokenizer.json").read_text()),
        ("BAAI/bge-m3", M3, unigram),
    ],
)
def test_the_references_names_load_with_a_weights_file_and_a_text_folder(
    tmp_path: Path, name: str, model: str, tokenizer
):
    """The vision tower has the released size; a small text tower, which the folder's config.json sets, saves time."""
    text = replace(MODELS[model].text, vocab_size=30522, width=64, layers=2, heads=4, mlp_width=128)
    folder = text_folder(tmp_path, model, tokenizer())
    (folder / "config.json").write_text(json.dumps(hugging_face_config(text)))
    write_repetitive(replace(MODELS[model], text=text), tmp_path / "Visualized.pth")
    weight = str(tmp_path / "Visualized.pth")
    for given in (str(folder), folder):
        local = Visualized_BGE(name, weight, from_pretrained=given)
        vector = local.encode(image=A, text="in the dark")
        assert vector.shape == (1, 64)
        close(vector.norm(), 1.0)


def test_a_local_folder_may_be_given_instead_of_the_name(tmp_path: Path):
    folder = tmp_path / "bge-base-en-v1.5"
    folder.mkdir()
    text_folder(folder, BASE, (UNCASED / "tokenizer.json").read_text())
    with pytest.raises(UsageError, match="there is no such file"):  # the folder was read; the weights come next
        Visualized_BGE(str(folder), model_weight=tmp_path / "none.pth")


def test_a_packed_model_cannot_be_moved_or_converted(tiny_encoder: Encoder):
    fast = Visualized_BGE("vista-tiny", dtype="auto", device="cpu")
    close(fast.encode(text="one"), tiny_encoder.encode([Record("one")]))
    fast.to("cpu")
    with pytest.raises(UsageError, match="device="):
        fast.to(torch.float64)


def test_the_built_in_folder_loads_as_the_built_in_model(model: Visualized_BGE):
    folder = BUILT_IN / TINY
    same = Visualized_BGE(TINY, folder / "model.safetensors", from_pretrained=folder, device="cpu")
    close(same.encode(text="one"), model.encode(text="one"))

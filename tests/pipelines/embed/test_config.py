"""The options of `embed`: each is explained, and values that can't work are refused before anything starts."""

import dataclasses
import re

import pytest

from pipelines.embed.config import EmbedConfig
from pipelines.embed.job import with_absolute_paths
from pipelines.options import parse
from pipelines.sources.scope import WHOLE, Scope
from vista_core import UsageError

REQUIRED = ["--source", "s", "--db", "d", "--table", "t"]


def test_what_is_not_typed_has_its_default():
    assert parse(EmbedConfig, REQUIRED) == EmbedConfig("s", "d", "t")


def test_options_are_written_with_dashes_or_underscores():
    options = ["--id-column", "sku", "--max_reject_rate", "0.5", "--store-images", "--alpha", "white"]
    config = parse(EmbedConfig, REQUIRED + options)
    assert config == EmbedConfig("s", "d", "t", id_column="sku", max_reject_rate=0.5, store_images=True, alpha="white")


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(EmbedConfig, ["--help"])
    assert ended.value.code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    entries = dict(re.findall(r"--([a-z-]+) ((?:(?! --[a-z-]+ ).)*?)\((?:default: [^)]*|required|repeatable)\)", text))
    for field in dataclasses.fields(EmbedConfig):
        explanation = entries[field.name.replace("_", "-")]
        assert len(explanation.split()) >= 3, f"--{field.name} is not explained: {explanation!r}"


def test_prefixes_may_be_given_several_times():
    options = ["--allow-prefix", "https://a.com/", "--allow-prefix", "s3://b"]
    assert parse(EmbedConfig, REQUIRED + options).allow_prefix == ("https://a.com/", "s3://b")
    for folder in ("/images", "./images", "~/images"):
        assert EmbedConfig("s", "d", "t", allow_prefix=(folder,)).allow_prefix == (folder,)


def test_a_prefix_may_be_a_network_which_is_no_path():
    prefixes = ("10.1.0.0/16", "10.1.2.3", "fd00::/8")
    assert with_absolute_paths(EmbedConfig("s", "d", "t", allow_prefix=prefixes)).allow_prefix == prefixes


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--max-reject-rate", "1.5"], "--max-reject-rate"),
        (["--max-reject-rate", "-0.1"], "--max-reject-rate"),
        (["--max-reject-rate", "nan"], "--max-reject-rate"),
        (["--num-actors", "0"], "--num-actors"),
        (["--transport-rows", "0"], "--transport-rows"),
        (["--inference-tokens", "0"], "--inference-tokens"),
        (["--commit-seconds", "-1"], "--commit-seconds"),
        (["--retention-days", "-1"], "--retention-days"),
        (["--price-per-hour", "-1"], "--price-per-hour"),
        (["--model", "clip"], "--model"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--sample", "0"], "--sample"),
        (["--sample", "1.1"], "--sample"),
        (["--limit", "0"], "--limit"),
        (["--delete-at-most", "0"], "--delete-at-most"),
        (["--fetch-timeout", "0"], "--fetch-timeout"),
        (["--max-image-mb", "-1"], "--max-image-mb"),
        (["--allow-prefix", "img.example.com"], "--allow-prefix img.example.com: https://img.example.com"),
        (["--table", "a/b"], "--table"),
        (["--table", ".hidden"], "--table"),
        (["--table", "naïve"], "--table"),
        (["--table", ""], "--table"),
        (["--source-name", "a#b"], "--source-name"),
        (["--delete-missing", "--limit", "9"], "--delete-missing"),
        (["--delete-at-most", "5", "--sample", "0.5"], "--delete-missing"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_the_option(options, name):
    with pytest.raises(UsageError, match=name):
        parse(EmbedConfig, REQUIRED + options)


def test_rows_are_removed_if_either_option_says_so():
    assert not EmbedConfig("s", "d", "t").deletes
    assert EmbedConfig("s", "d", "t", delete_missing=True).deletes
    assert EmbedConfig("s", "d", "t", delete_at_most=3).deletes


def test_the_scope_is_what_the_sample_and_the_limit_say():
    assert EmbedConfig("s", "d", "t").scope == WHOLE
    assert EmbedConfig("s", "d", "t", sample=0.5, limit=7).scope == Scope(0.5, 7)


def test_tables_are_named_after_the_table():
    config = EmbedConfig("s", "s3://bucket/db", "products")
    assert config.table_uri == "s3://bucket/db/products.lance"
    assert config.side_table("rejects") == "s3://bucket/db/products_rejects.lance"


def test_the_encoder_gets_what_was_typed():
    config = EmbedConfig("s", "d", "t", weights="w.pth", alpha="white", max_tokens=9, dtype="bfloat16", device="cpu")
    settings = config.encoder.settings(config.device)
    assert (settings.model, settings.weights, settings.alpha) == ("vista-tiny", "w.pth", "white")
    assert (settings.max_tokens, settings.dtype, settings.device) == (9, "bfloat16", "cpu")
    assert EmbedConfig("s", "d", "t").encoder.settings("cpu").alpha is None  # as the model says

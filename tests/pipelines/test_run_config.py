"""What users type, and what they are told when it is wrong."""

import dataclasses
import re
import sys
from dataclasses import dataclass

import pytest

from jobs import run_job
from pipelines.run_config import EmbedConfig, SearchConfig, check_name, encoder_settings, parse
from vista_core import UsageError, VistaError

REQUIRED = ["--source", "s", "--db", "d", "--table", "t"]


@pytest.fixture
def toml(tmp_path):
    """Writes a configuration file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "job.toml"
        path.write_text(text)
        return str(path)

    return write


def test_what_is_not_typed_has_its_default():
    assert parse(EmbedConfig, REQUIRED) == EmbedConfig("s", "d", "t")


def test_options_are_written_with_dashes_or_underscores():
    options = ["--id-column", "sku", "--max_reject_rate", "0.5", "--store-images", "--alpha", "white"]
    config = parse(EmbedConfig, REQUIRED + options)
    assert config == EmbedConfig("s", "d", "t", id_column="sku", max_reject_rate=0.5, store_images=True, alpha="white")


@pytest.mark.parametrize("kind", [EmbedConfig, SearchConfig])
def test_help_explains_every_option(kind, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(kind, ["--help"])
    assert ended.value.code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    entries = dict(re.findall(r"--([a-z-]+) ((?:(?! --[a-z-]+ ).)*?)\((?:default: [^)]*|required|repeatable)\)", text))
    for field in dataclasses.fields(kind):
        explanation = entries[field.name.replace("_", "-")]
        assert len(explanation.split()) >= 3, f"--{field.name} is not explained: {explanation!r}"
    assert "--config FILE" in text


def test_a_file_sets_options_and_what_is_typed_overrides_it(toml):
    path = toml('source = "file"\ndb = "file"\ntable = "file"\nnum-actors = 2\nmax_tokens = 64\nstore-images = true\n')
    config = parse(EmbedConfig, ["--db", "typed", "--config", path, "--num-actors", "3"])
    assert config == EmbedConfig("file", "typed", "file", num_actors=3, max_tokens=64, store_images=True)


def test_the_last_of_several_files_counts(toml, tmp_path):
    second = tmp_path / "second.toml"
    second.write_text("max-tokens = 32")
    config = parse(EmbedConfig, [*REQUIRED, f"--config={toml('max-tokens = 64')}", f"--config={second}"])
    assert config.max_tokens == 32


def test_a_file_can_leave_a_flag_off_and_start_a_text_with_dashes(toml):
    assert not parse(EmbedConfig, [*REQUIRED, "--config", toml("store-images = false")]).store_images
    path = toml('db = "d"\ntable = "t"\ntext = "--dark"')
    assert parse(SearchConfig, ["--config", path]).text == "--dark"


def test_an_option_may_be_given_several_times(toml):
    options = ["--allow-prefix", "https://a.com/", "--allow-prefix", "s3://b"]
    assert parse(EmbedConfig, REQUIRED + options).allow_prefix == ("https://a.com/", "s3://b")
    path = toml('allow-prefix = ["https://a.com/", "s3://b"]')
    assert parse(EmbedConfig, [*REQUIRED, "--config", path]).allow_prefix == ("https://a.com/", "s3://b")
    assert parse(EmbedConfig, REQUIRED).allow_prefix == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('tabel = "t"', "no such option: tabel; known: allow_prefix, alpha"),
        ('[embed]\ntable = "t"', "no such option: embed"),
        ("table = ", "job.toml"),
        ("max_reject_rate = 2", "--max-reject-rate"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_cause(toml, text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(EmbedConfig, [*REQUIRED, "--config", toml(text)])


@pytest.mark.parametrize("content", [None, b"table = '\xff'"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "job.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"--config .*job\.toml"):
        parse(EmbedConfig, [*REQUIRED, "--config", str(path)])


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
        (["--model", "clip"], "--model"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--sample", "0"], "--sample"),
        (["--sample", "1.1"], "--sample"),
        (["--limit", "0"], "--limit"),
        (["--fetch-timeout", "0"], "--fetch-timeout"),
        (["--max-image-mb", "-1"], "--max-image-mb"),
        (["--allow-prefix", "img.example.com"], "--allow-prefix img.example.com: https://img.example.com"),
        (["--table", "a/b"], "--table"),
        (["--table", ".hidden"], "--table"),
        (["--table", "naïve"], "--table"),
        (["--table", ""], "--table"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_the_option(options, name):
    with pytest.raises(UsageError, match=name):
        parse(EmbedConfig, REQUIRED + options)


@pytest.mark.parametrize("name", ["catalog", "catalog_2024-01.v2", "0"])
def test_a_usual_table_name_is_taken(name):
    check_name("--table", name)


@pytest.mark.parametrize(("options", "message"), [([], "--text, --image"), (["--text", "a", "--k", "0"], "--k")])
def test_a_search_without_a_query_or_results_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        parse(SearchConfig, ["--db", "d", "--table", "t", *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "s", "--db", "d"], "--table"),
        ([*REQUIRED, "--num-actors", "many"], "--num-actors"),
        ([*REQUIRED, "--dtype", "int8"], "--dtype"),
        ([*REQUIRED, "--sauce", "x"], "--sauce"),
        ([*REQUIRED, "--config"], "--config"),
    ],
    ids=["missing", "no number", "no choice", "unknown", "no file"],
)
def test_options_that_cannot_be_parsed_exit_with_2_and_are_named(options, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(EmbedConfig, options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_encoder_gets_what_was_typed():
    config = EmbedConfig("s", "d", "t", weights="w.pth", alpha="white", max_tokens=9, dtype="bfloat16", device="cpu")
    settings = encoder_settings(config)
    assert (settings.model, settings.weights, settings.alpha) == ("vista-tiny", "w.pth", "white")
    assert (settings.max_tokens, settings.dtype, settings.device) == (9, "bfloat16", "cpu")
    assert encoder_settings(EmbedConfig("s", "d", "t")).alpha == "drop"


@dataclass(frozen=True)
class Greeting:
    """Say hello."""

    name: str
    """Whom to greet."""


def greet(config: Greeting) -> str:
    if config.name == "nobody":
        raise UsageError("--name nobody: there must be somebody")
    if config.name == "ghost":
        raise VistaError("ghosts don't answer")
    return f"hello {config.name}"


@pytest.mark.parametrize(
    ("name", "code", "out", "err"),
    [
        ("you", 0, "hello you\n", ""),
        ("ghost", 1, "", "error: ghosts don't answer\n"),
        ("nobody", 2, "", "error: --name nobody: there must be somebody\n"),
    ],
)
def test_a_job_prints_its_summary_or_its_error_and_returns_the_exit_code(name, code, out, err, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["greet.py", "--name", name])
    assert run_job(Greeting, greet) == code
    assert capsys.readouterr() == (out, err)


def test_an_error_that_nobody_foresaw_is_not_hidden(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["greet.py", "--name", "you"])
    with pytest.raises(ZeroDivisionError):
        run_job(Greeting, lambda config: 1 / 0)

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.vista_core.conftest import BASE, GOLDEN, M3, TINY, TINY_CONFIGS, Golden
from vista_core import MODELS, CheckpointError, UsageError
from vista_core.checkpoint import (
    Checkpoint,
    check_keys,
    convert,
    detect_model,
    key_rows,
    load_model,
    main,
    open_checkpoint,
    released_shapes,
    released_state,
    weights_digest,
)
from vista_core.synthetic import synthetic_checkpoint, write_synthetic

CONFIG = MODELS[TINY]


@pytest.fixture(scope="module")
def pth(tmp_path_factory) -> Path:
    """A `.pth` like the released ones, with the sizes of vista-tiny."""
    path = tmp_path_factory.mktemp("weights") / "released.pth"
    write_synthetic(CONFIG, path)
    return path


def changed(pth: Path, folder: Path, change) -> Path:
    """A copy of a released file, with its dict of tensors edited by `change`."""
    state = torch.load(pth, weights_only=True)
    change(state)
    torch.save(state, folder / "changed.pth")
    return folder / "changed.pth"


def failure(path: Path) -> str:
    """The message of the CheckpointError with which loading fails."""
    with pytest.raises(CheckpointError) as caught:
        load_model(CONFIG, open_checkpoint(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("model", "variant"), [(BASE, "base"), (M3, "m3")])
def test_the_keys_of_the_released_files_fit_strictly(model: str, variant: str):
    listed = json.loads((GOLDEN / f"keys_{variant}.json").read_text())
    shapes = {key: tuple(shape) for key, (shape, _) in listed.items()}
    tables = synthetic_checkpoint(MODELS[model])
    check_keys(MODELS[model], Checkpoint(variant, shapes, tables.read))
    assert detect_model(shapes) == model


def test_every_released_key_belongs_to_exactly_one_parameter(golden: Golden):
    rows = dict(key_rows(golden.config))
    assert rows.keys() == golden.model.state_dict().keys()
    used = [key for released in rows.values() for key in released]
    assert sorted(used) == sorted(released_shapes(golden.config))
    assert len(set(used)) == len(used)


def test_released_state_is_what_the_model_was_loaded_from(golden: Golden):
    checkpoint = synthetic_checkpoint(golden.config)
    state = released_state(golden.model)
    assert state.keys() == released_shapes(golden.config).keys()
    assert all(torch.equal(value, checkpoint.read(key)) for key, value in state.items())


def test_a_converted_file_is_the_same_model_with_the_same_digest(pth: Path, tmp_path: Path, capsys):
    target = tmp_path / "converted.safetensors"
    assert main(["convert", str(pth), str(target)]) == 0
    digest = weights_digest(CONFIG, open_checkpoint(pth))
    assert digest in capsys.readouterr().out
    assert weights_digest(CONFIG, open_checkpoint(target)) == digest
    assert load_file(target).keys() == released_shapes(CONFIG).keys()
    before, after = (load_model(CONFIG, open_checkpoint(path)).state_dict() for path in (pth, target))
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert target.stat().st_mode & 0o444 == 0o444


def test_the_digest_depends_on_the_values_that_the_model_uses_and_no_others(pth: Path, tmp_path: Path):
    digest = weights_digest(CONFIG, open_checkpoint(pth))

    def nudge(state: dict) -> None:
        state["visual_proj.bias"][0] += 1e-3

    assert weights_digest(CONFIG, open_checkpoint(changed(pth, tmp_path, nudge))) != digest
    dropped = changed(pth, tmp_path, lambda state: state["bge_pooler.dense.bias"].add_(1))
    assert weights_digest(CONFIG, open_checkpoint(dropped)) == digest


def test_ignored_keys_may_be_present_or_absent(pth: Path, tmp_path: Path):
    def rearrange(state: dict) -> None:
        state["bge_embeddings.position_ids"] = torch.arange(128)[None]
        for key in [key for key in state if "rope" in key or "pooler" in key or "head" in key]:
            del state[key]

    check_keys(CONFIG, open_checkpoint(changed(pth, tmp_path, rearrange)))


def test_missing_unexpected_and_misshaped_keys_are_listed(pth: Path, tmp_path: Path):
    def spoil(state: dict) -> None:
        del state["visual_proj.weight"]
        state["module.extra"] = torch.zeros(1)
        state["bge_embeddings.LayerNorm.bias"] = torch.zeros(5)

    message = failure(changed(pth, tmp_path, spoil))
    assert "1 missing: visual_proj.weight." in message
    assert "1 unexpected: module.extra." in message
    assert "1 of another shape: bge_embeddings.LayerNorm.bias [5], not [128]." in message


def test_a_long_list_of_keys_is_shortened_and_counted(pth: Path, tmp_path: Path):
    message = failure(changed(pth, tmp_path, lambda state: state.clear()))
    assert f"{len(released_shapes(CONFIG))} missing: " in message
    assert message.count("bge_") <= 12
    assert message.endswith(", ....")


def test_weights_of_another_known_model_are_recognised():
    checkpoint = synthetic_checkpoint(CONFIG)
    with pytest.raises(CheckpointError, match="It holds the weights of vista-tiny"):
        check_keys(TINY_CONFIGS["tiny_bert"], checkpoint)


def test_a_rope_table_of_another_grid_is_refused(pth: Path, tmp_path: Path):
    def turn(state: dict) -> None:
        state["model_visual.visual.rope.freqs_sin"] += 1e-3

    assert "rope.freqs_sin is the table of another grid than 4 x 4" in failure(changed(pth, tmp_path, turn))


def test_a_truncated_file_is_a_checkpoint_error(pth: Path, tmp_path: Path):
    cut = tmp_path / "cut.pth"
    cut.write_bytes(pth.read_bytes()[:100_000])
    assert "fetch or convert it again" in failure(cut)


@pytest.mark.parametrize("name", ["wrong.pth", "wrong.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 10, b"PK\x03\x04" + b"\0" * 100, b"\x80\x02}q\x00."])
def test_a_file_of_another_kind_is_a_checkpoint_error(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    failure(tmp_path / name)


def test_code_in_a_pickle_is_not_executed(tmp_path: Path):
    torch.save({"weight": Path("/")}, tmp_path / "code.pth")
    failure(tmp_path / "code.pth")


def test_a_dict_of_more_than_tensors_is_refused(tmp_path: Path):
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "training.pth")
    assert "not a plain dict of tensors" in failure(tmp_path / "training.pth")


def test_a_file_in_torchs_older_format_loads(pth: Path, tmp_path: Path):
    torch.save(torch.load(pth, weights_only=True), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    digests = [weights_digest(CONFIG, open_checkpoint(path)) for path in (pth, tmp_path / "old.pth")]
    assert digests[0] == digests[1]


def test_half_precision_weights_are_read_as_float32(pth: Path, tmp_path: Path):
    state = {key: value.half() for key, value in torch.load(pth, weights_only=True).items() if "rope" not in key}
    save_file(state, tmp_path / "half.safetensors")
    model = load_model(CONFIG, open_checkpoint(tmp_path / "half.safetensors"))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_a_loaded_model_does_not_depend_on_its_file(pth: Path, tmp_path: Path):
    copy = tmp_path / "copy.pth"
    copy.write_bytes(pth.read_bytes())
    model = load_model(CONFIG, open_checkpoint(copy))
    before = model.visual_proj.weight.clone()
    with copy.open("r+b") as file:
        file.write(b"\0" * copy.stat().st_size)
    assert torch.equal(model.visual_proj.weight, before)


def test_converting_needs_a_known_model_and_a_safetensors_target(pth: Path, tmp_path: Path, capsys):
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        convert(pth, tmp_path / "out.bin")
    with pytest.raises(UsageError, match="there is no such file"):
        convert(tmp_path / "none.pth", tmp_path / "out.safetensors")
    other = tmp_path / "other.pth"
    write_synthetic(replace(CONFIG, text=TINY_CONFIGS["tiny_bert"].text), other)
    assert main(["convert", str(other), str(tmp_path / "out.safetensors")]) == 2
    assert "--model" in capsys.readouterr().err
    assert main(["convert", str(other), str(tmp_path / "out.safetensors"), "--model", TINY]) == 1
    assert "of another shape" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()

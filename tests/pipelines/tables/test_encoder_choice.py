"""The precision of a column is the fastest of the CPUs that encode, and stays; slow CPUs say so."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from pipelines.tables.encoder_choice import EncoderOptions, choose_encoder

TINY = EncoderOptions("vista-tiny")
SLOW_HALF = {torch.float32: 179.0, torch.bfloat16: 120.0}
FAST_HALF = {torch.float32: 179.0, torch.bfloat16: 900.0}


def test_a_new_column_has_the_fastest_precision_and_the_log_says_what_was_measured(caplog):
    caplog.set_level(logging.INFO)
    settings, column = choose_encoder(TINY, "cpu", "vector", None, lambda _: FAST_HALF)
    assert settings.dtype == column.identity.dtype == "bfloat16"
    assert "precision: bfloat16" in caplog.text
    assert "float32 179, bfloat16 900 GFLOP/s" in caplog.text
    settings, _ = choose_encoder(TINY, "cpu", "vector", None, lambda _: SLOW_HALF)
    assert settings.dtype == "float32"


def test_a_column_keeps_its_precision_where_another_is_faster_and_that_is_said(caplog):
    _, column = choose_encoder(TINY, "cpu", "vector", None, lambda _: SLOW_HALF)
    settings, again = choose_encoder(TINY, "cpu", "vector", column, lambda _: SLOW_HALF)
    assert (settings.dtype, again) == ("float32", column)
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]
    settings, again = choose_encoder(TINY, "cpu", "vector", column, lambda _: FAST_HALF)
    assert (settings.dtype, again) == ("float32", column)
    assert "the column is of float32, in which these CPUs multiply much slower than in bfloat16" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_not_measured(dtype):
    def never(_):
        raise AssertionError("measured")

    settings, _ = choose_encoder(dataclasses.replace(TINY, dtype=dtype), "cpu", "vector", None, never)
    assert settings.dtype == dtype

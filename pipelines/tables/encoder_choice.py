"""Which encoder fills a column: the one asked for; what the user leaves open is taken from the column that is there."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Final, Literal

from pipelines.cluster.session import where_encoders_are
from pipelines.storage.model_files import local_files
from pipelines.tables.vector_column import EncoderFiles, VectorColumn
from vista_core import EncoderSettings, UsageError, encoder_identity
from vista_core.cpu_speed import describe, fastest, product_rates
from vista_core.device import DTYPES, Rates, dtype_name, resolve_dtype
from vista_core.hub import model_name, resolve_config

MUCH_SLOWER: Final = 0.7  # of the fastest precision's rate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderOptions:
    """What the user says of an encoder. None, and the precision `auto`: as in the existing column."""

    model: str
    weights: str | None = None
    from_pretrained: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    alpha: Literal["drop", "white"] | None = None
    resize: Literal["fast", "exact"] | None = None
    max_tokens: int | None = None
    inference_tokens: int | None = None

    def settings(self, device: Literal["auto", "cpu", "cuda"]) -> EncoderSettings:
        """The settings of an encoder without an existing column. Raises UsageError for values that can't work."""
        return EncoderSettings(
            model=self.model,
            weights=self.weights,
            from_pretrained=self.from_pretrained,
            device=device,
            dtype=self.dtype,
            alpha=self.alpha,
            resize=self.resize or "fast",
            max_tokens=self.max_tokens,
            inference_tokens=self.inference_tokens,
        )

    @property
    def files(self) -> EncoderFiles:
        """Where the files of the encoder are."""
        return EncoderFiles.of(self.model, self.weights, self.from_pretrained)

    @property
    def name(self) -> str:
        """The name of the model, which a model folder has in it. Raises UsageError or DownloadError."""
        return model_name(local_files(self.settings("cpu"), weights=False))


def choose_encoder(
    options: EncoderOptions,
    device: Literal["cpu", "cuda"],
    name: str,
    existing: VectorColumn | None,
    rates: Rates = product_rates,
) -> tuple[EncoderSettings, VectorColumn]:
    """The encoder's settings, and the column `name` that it fills. `rates` are those of the CPUs that encode.

    Raises UsageError if `existing` has another encoder.
    """
    settings = chosen_settings(options, device, existing, rates)
    identity = encoder_identity(dataclasses.replace(local_files(settings), device="cpu"))
    if existing is not None and (differences := identity.differences(existing.identity)):
        raise UsageError(
            f"the column `{name}` was embedded with another encoder, and the vectors of two can't be compared: "
            f"{'; '.join(differences)}. Use the column's encoder, or another --table, or fill another column by "
            "`vista backfill`, or replace the whole column by `vista embed --reembed`"
        )
    column = VectorColumn(name, identity) if existing is None else dataclasses.replace(existing, identity=identity)
    # The precision is not for each actor's machine to decide.
    return dataclasses.replace(settings, dtype=identity.dtype, alpha=identity.alpha), column


def chosen_settings(
    options: EncoderOptions, device: Literal["cpu", "cuda"], existing: VectorColumn | None, rates: Rates
) -> EncoderSettings:
    """The settings asked for, completed from the existing column or, without one, by what is fastest here."""
    settings = options.settings(device)
    if existing is not None:
        inherited = existing.settings(settings)
        if device == "cpu" and options.dtype == "auto":
            say_if_slow(inherited, rates)
        return dataclasses.replace(
            inherited,
            dtype=inherited.dtype if options.dtype == "auto" else options.dtype,
            alpha=options.alpha or inherited.alpha,
            resize=options.resize or inherited.resize,
            max_tokens=options.max_tokens or inherited.max_tokens,
        )
    if settings.dtype != "auto":
        return settings
    # The driver's machine need not be one of those that encode.
    sizes = resolve_config(local_files(settings, weights=False))
    if device == "cuda":
        return dataclasses.replace(settings, dtype=resolve_dtype("auto", "cuda", sizes))
    found = where_encoders_are(rates, sizes)
    dtype = resolve_dtype("auto", "cpu", sizes, lambda _: found)
    log.info("precision: %s, the fastest of those that keep a cosine of 0.999 (%s)", dtype, describe(found))
    return dataclasses.replace(settings, dtype=dtype)


def say_if_slow(column: EncoderSettings, rates: Rates) -> None:
    """Warn if the machines that encode are much faster in another precision than that of the column."""
    found = where_encoders_are(rates, resolve_config(local_files(column, weights=False)))
    mine, best = found.get(DTYPES[column.dtype]), fastest(found)
    if mine is not None and mine < MUCH_SLOWER * found[best]:
        log.warning(
            "the column is of %s, in which these CPUs multiply much slower than in %s (%s). `--reembed --dtype %s` "
            "computes it anew; vectors of two precisions are not mixed",
            column.dtype,
            dtype_name(best),
            describe(found),
            dtype_name(best),
        )

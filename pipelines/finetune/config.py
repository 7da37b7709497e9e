"""The options of the command `finetune`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import tyro

from pipelines.fetching.locations import check_typed
from pipelines.finetune.recipe import RECIPES, Recipe
from pipelines.options import ABOVE_0, AT_LEAST_0, AT_LEAST_1, NAME, SHARE, Device, check_options
from pipelines.storage.uris import absolute
from pipelines.tables.encoder_choice import EncoderOptions
from vista_core import UsageError
from vista_core.model_folder import check_name


@dataclass(frozen=True)
class FinetuneConfig:
    """Train a model on queries with what they should find, and write it to --output as a model folder. The same command
    goes on with a training that was interrupted. Exit code: 0 done, 1 failed, 2 wrong usage, 130 or 143 stopped by
    SIGINT or SIGTERM."""

    output: str
    """Folder for the model, its page and its checkpoints, or an s3:// URI."""
    data: str | None = None
    """A folder, local or s3://, with JSON lines of pairs in the layout of VISTA-S2, and their images in a folder
    `images` or in `images.tar.part*`; or with Parquet files of pairs."""
    db: str | None = None
    """Instead of --data: where the LanceDB tables are, a folder or an s3:// URI."""
    table: Annotated[str | None, NAME] = None
    """Instead of --data: a table of --db, whose rows are what queries should find."""
    clicks: str | None = None
    """With --table: a CSV, TSV, JSON lines or Parquet file with the columns `query`, a text, and `id`, the row that was
    clicked."""
    allow_prefix: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """With --table: allow to fetch images whose URI starts with this; default: only what the table stores."""
    recipe: Literal["stage1", "stage2", "cirr", "webqa", "remuq"] = "stage2"
    """Hyperparameters to start from; each of them is an option, too."""
    model: str = "vista-tiny"
    """The model to start from: bge-visualized-base-en-v1.5, bge-visualized-m3, vista-tiny, or a model folder, such as
    `python -m vista_core.assemble` makes."""
    weights: str | None = None
    """The model's weights: a released .pth or a converted .safetensors file, as a path or s3:// URI; default: those on
    the Hugging Face hub."""
    from_pretrained: str | None = None
    """A local folder with the text tower's config.json and tokenizer; default: those on the Hugging Face hub."""
    name: Annotated[str | None, NAME] = None
    """Name of the trained model; default: that of the folder --output."""
    trained: Literal["vision", "all"] | None = None
    """What is trained: the vision tower with its projection, or all. Default, here and below: the recipe's."""
    batch: Annotated[int | None, AT_LEAST_1] = None
    """Queries in a batch, over all processes."""
    negatives: Annotated[int | None, AT_LEAST_0] = None
    """Hard negatives that a query brings into its batch."""
    edit_negatives: Annotated[int | None, AT_LEAST_0] = None
    """The same for queries that are an image with an instruction, and find an image."""
    mine_negatives: bool = False
    """Search for hard negatives with the model to start from, instead of those that the data has."""
    repeat: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """TASK=N: train with the pairs of a task N times in each epoch, so that a small task has its share of the steps;
    TASK=0: without them."""
    epochs: Annotated[float | None, ABOVE_0] = None
    """How often each pair is trained with."""
    steps: Annotated[int | None, AT_LEAST_1] = None
    """Train for this many steps instead of --epochs."""
    max_minutes: Annotated[float | None, ABOVE_0] = None
    """End after this time at the latest. The learning rate declines faster then, so that it ends at 0."""
    learning_rate: Annotated[float | None, ABOVE_0] = None
    """Highest learning rate of the vision tower and its projection."""
    text_learning_rate: Annotated[float | None, ABOVE_0] = None
    """Highest learning rate of the text tower, if it is trained."""
    muon_learning_rate: Annotated[float | None, ABOVE_0] = None
    """Train the matrices of all layers by Muon (arXiv 2502.16982), with this highest learning rate, and only the rest
    by AdamW; default: AdamW alone. From random weights it needs a third of the steps."""
    schedule: Literal["linear", "cosine"] | None = None
    """How the learning rate declines."""
    warmup: Annotated[float | None, SHARE] = None
    """Share of the training in which the learning rate rises."""
    weight_decay: Annotated[float | None, AT_LEAST_0] = None
    """Weight decay of AdamW; norms and biases have none."""
    max_gradient_norm: Annotated[float | None, ABOVE_0] = None
    """Longer gradients are scaled down to this norm."""
    temperature: Annotated[float | None, ABOVE_0] = None
    """What cosines are divided by in the loss."""
    alpha: Literal["drop", "white"] | None = None
    """Transparent images: `drop` the alpha channel as the reference does, or composite them on `white`; default:
    drop, or what a model folder says."""
    max_tokens: int | None = None
    """Truncate texts to this many tokens; default: what the model can take."""
    seed: int = 0
    """Decides the order of the pairs, which hard negatives are taken, and which pairs are held out."""
    validation: Annotated[int, AT_LEAST_0] = 256
    """Pairs of each task that are held out and searched for now and then, at most 1 in 20."""
    checkpoint_steps: Annotated[int, AT_LEAST_1] = 100
    """Save a checkpoint, and search for the held-out pairs, each time after this many steps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of products; weights are kept in float32. `auto`: bfloat16 where this is fast, and the model keeps its
    accuracy in it."""
    device: Device = "auto"
    """Where the model is trained. `cuda` without a GPU is an error; `auto` uses GPUs if the cluster has any."""
    processes: Annotated[int | None, AT_LEAST_1] = None
    """Processes that train together; default: one for each GPU or, without GPUs, one."""
    tokens: Annotated[int | None, AT_LEAST_1] = None
    """Tokens that go through the model at once, image tokens included. Less takes less memory, and a batch of more
    tokens is computed twice (cached gradients); the result is the same. Default: 16384, on GPUs 131072."""
    recompute: bool = False
    """Keep no activations within layers, but compute them again (gradient checkpointing): less memory, a third more
    time."""
    loaders: Annotated[int | None, AT_LEAST_0] = None
    """Processes that decode images ahead, for each process that trains; default: by the number of cores."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)
        given = (self.db, self.table, self.clicks)
        if (self.data is None) == (given == (None, None, None)) or (self.data is None and None in given):
            raise UsageError("name the --data; or a --table of a --db, and the --clicks on its rows")
        check_typed(self.allow_prefix)
        self.repeats()
        check_name(self.model_name, Path("--output" if self.name is None else "--name"))
        self.encoder.settings(self.device)  # checks the options that it takes

    @property
    def model_name(self) -> str:
        """The name of the trained model."""
        return self.name or PurePosixPath(absolute(self.output)).name

    @property
    def chosen_recipe(self) -> Recipe:
        """The recipe with the options that replace its values."""
        given = {each.name: getattr(self, each.name) for each in fields(Recipe)}
        replaced = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(RECIPES[self.recipe], **replaced)

    def repeats(self) -> dict[str, int]:
        """How often each task that --repeat names is trained with. Raises UsageError for another kind of value."""
        found = {}
        for each in self.repeat:
            name, _, number = each.rpartition("=")
            if not name or not number.isdecimal():
                raise UsageError(f"--repeat {each}: give TASK=N, such as t2it=3")
            found[name] = int(number)
        return found

    @property
    def encoder(self) -> EncoderOptions:
        """The model to start from, and how its input is made."""
        return EncoderOptions(
            self.model, self.weights, self.from_pretrained, "float32", self.alpha, max_tokens=self.max_tokens
        )

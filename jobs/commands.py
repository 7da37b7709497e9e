"""The commands of `vista`, by the names of what they consist of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command, by the names of what it consists of, so that it is imported only when it is called."""

    config: str  # `module:class` of its options
    function: str  # `module:function` that takes them
    summary: str


COMMANDS = {
    "embed": Command("pipelines.embed.config:EmbedConfig", "pipelines.embed.run:embed", "embed what is new or changed"),
    "backfill": Command(
        "pipelines.backfill.config:BackfillConfig", "pipelines.backfill.run:backfill", "fill another vector column"
    ),
    "search": Command("pipelines.search.config:SearchConfig", "pipelines.search.run:search", "search a table"),
    "serve": Command("pipelines.serve.config:ServeConfig", "pipelines.serve.run:serve", "serve a page for searches"),
    "index": Command("pipelines.index.config:IndexConfig", "pipelines.index.run:index_table", "build measured indexes"),
    "evaluate": Command(
        "pipelines.evaluate.config:EvaluateConfig", "pipelines.evaluate.run:evaluate", "measure retrieval quality"
    ),
    "compare": Command(
        "pipelines.evaluate.config:CompareConfig", "pipelines.evaluate.compare:compare", "compare two evaluations"
    ),
    "finetune": Command("pipelines.finetune.config:FinetuneConfig", "pipelines.finetune.run:finetune", "train a model"),
    "rollback": Command(
        "pipelines.rollback:RollbackConfig", "pipelines.rollback:roll_back_table", "publish an earlier version again"
    ),
    "switch": Command("pipelines.switch:SwitchConfig", "pipelines.switch:switch_column", "use another vector column"),
    "drop-column": Command("pipelines.drop_column:DropConfig", "pipelines.drop_column:drop", "drop a vector column"),
}

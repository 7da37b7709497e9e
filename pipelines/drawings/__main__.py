"""The command `python -m pipelines.drawings`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.drawings import __doc__ as about
from pipelines.drawings.evaluation import write_evaluation
from pipelines.drawings.training import FAMILY, write_training


def main() -> None:
    """Write training records and evaluation tasks."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m pipelines.drawings", description=about, formatter_class=plain)
    parser.add_argument("folder", type=Path, help="what is written goes into train and eval in it")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes (default: 0)")
    parser.add_argument("--train", type=int, default=36_000, help="images to train on, at most (default: 36000)")
    given = parser.parse_args()
    if given.train < FAMILY:
        parser.error(f"--train {given.train}: scenes come in families of {FAMILY}, so {FAMILY} is the least")
    write_training(given.folder / "train", given.train, given.seed)
    write_evaluation(given.folder / "eval", given.seed)
    print(given.folder)


if __name__ == "__main__":
    main()

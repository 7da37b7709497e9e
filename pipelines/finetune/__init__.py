"""The command `finetune`: trains a model on queries with what they should find, and writes a model folder."""

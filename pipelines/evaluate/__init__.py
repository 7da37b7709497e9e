"""The command `evaluate`: how good a model, a vector column or an index is at finding what is relevant."""

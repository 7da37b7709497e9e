"""The pipelines of vista: what reads, selects, decodes, encodes, writes, publishes and searches."""

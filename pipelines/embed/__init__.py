"""The command `embed`: embed what is new or changed in a source, and publish it.

Read `run.py` first, which holds the whole run, then `flow.py`, which holds the stream from units to encoded records.
"""

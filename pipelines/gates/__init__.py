"""Gates: what must hold before a version of the table is published. A file each, one signature: Evidence to Verdict.

A new gate is a function in a file of its own, and an entry in `judge.OF_THE_RUN` or `judge.OF_THE_TABLE`.
"""

"""The report of a run: one HTML page that says what came in, what became of it, and how long that took.

A page is made of sections (`page.py`), each of which a command may use or leave out: `sections.py` has those of figures
and words, `charts.py` the plots, `rejects.py` and `neighbours.py` what is read from the tables, `nights.py` the runs of
the past. `recorder.py` listens to a run, `destination.py` writes the page.
"""

"""Indexes of a LanceDB table, and their recall: options, choice, build, measurement, and the whole run."""

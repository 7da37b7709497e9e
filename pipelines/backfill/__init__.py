"""The command `backfill`: a vector column on the rows of a LanceDB table, whoever made it."""

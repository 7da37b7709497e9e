"""From encoded records to committed rows: resolve ids, write fragments, commit, and account for every row."""

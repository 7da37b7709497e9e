"""What happens to a record on workers: read, select, fetch, decode, encode. One file a stage, on Arrow tables."""

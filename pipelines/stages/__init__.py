"""What happens to a record between source and sink: select, decode, encode. One file a stage."""

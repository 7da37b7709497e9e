"""Where records end: the table, its rejects and its runs; fragments by workers, one commit by the driver."""

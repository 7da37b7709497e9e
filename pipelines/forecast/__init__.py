"""How long a run takes, what limits it, and what it costs: by former runs, by a probe, or by its own first minute."""

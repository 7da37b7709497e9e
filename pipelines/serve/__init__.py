"""The search page and its JSON API: `vista serve`."""

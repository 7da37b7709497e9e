"""How good searches are, by queries of which it was judged what they should find."""

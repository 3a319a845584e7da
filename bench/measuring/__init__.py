"""Running peers and measuring them: processes, rounds in which they take turns, and what comes of them."""

"""Real and in-silico images in the space of an encoder: one picture of all, and how far apart they are."""

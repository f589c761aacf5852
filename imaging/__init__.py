"""Patches of tissue as files: images, label maps, what is written about a result, and where it goes."""

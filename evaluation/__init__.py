"""Is the data any good? Segmentation, experiments, embedding and review; reads files through `imaging` alone."""

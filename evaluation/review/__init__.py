"""A study of realism: readers tell real images from in-silico ones on a page without a network; their score."""

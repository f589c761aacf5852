"""Whole datasets: rounds of in-silico pairs for every annotated image, planned, made, judged and written."""

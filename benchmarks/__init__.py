"""One script for each question, one schema for every row."""

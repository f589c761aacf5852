"""One script for each question, one schema for every row."""

from jobs.threads import wait_briefly

wait_briefly()

"""One script for each question, one schema for every row."""

from commands.threads import wait_briefly

wait_briefly()

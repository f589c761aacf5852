"""How the embedded demonstration weights are made: drawn tissue, training, export."""

from jobs.threads import wait_briefly

wait_briefly()

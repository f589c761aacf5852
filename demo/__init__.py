"""How the embedded demonstration weights are made: drawn tissue, training, export."""

from commands.threads import wait_briefly

wait_briefly()

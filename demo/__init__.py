"""How the embedded demonstration weights are made: drawn tissue, training, export."""

"""What the commands do, from file names to files: checked first, then computed, then written whole or not at all."""

VERSION = "0.1.0"

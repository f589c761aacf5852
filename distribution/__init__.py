"""How the program gets into an environment: ``stainloom/`` is what pip installs, ``build_parts.py`` fills it."""

"""Do in-silico images help? Trainings with and without them, side by side, and what may be concluded."""

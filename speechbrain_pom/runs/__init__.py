"""From a command line to a run's folder, and back."""

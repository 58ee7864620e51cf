"""How `tima.evaluate` does its work, a step a file. Private: what is public is `evaluate` and `evaluate_classifier`."""

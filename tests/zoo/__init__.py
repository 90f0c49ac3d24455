"""Broken files, each after a real incident, and good ones: what the gate catches, and what it leaves alone."""

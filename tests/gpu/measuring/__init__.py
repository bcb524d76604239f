"""What ``measure.py`` measures: one section a file, each in a process of its own."""

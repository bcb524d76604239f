"""Distilled sets that others made: reading their files, and bringing them into network-input space."""

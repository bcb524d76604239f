"""Sharing GPUs: fractions, their packing, and the memory that was measured."""

"""Figures from finished studies."""

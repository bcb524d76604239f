"""Trials as folders that replay, and the calibrated models in them."""

"""Ablations: one change at a time, over seeds, as a table beside the one that a paper prints."""

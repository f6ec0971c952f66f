"""Inference: export in, summaries, scores and a report out."""

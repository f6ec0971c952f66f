"""Training: records in, checkpoint and export out."""

"""DeepSpeed presets, as JSON files; README.md says which one, when."""

"""Passes that ask the target: decomposition, layout, merging and fusion."""

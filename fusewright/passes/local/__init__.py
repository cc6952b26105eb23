"""Passes that look at a node and its neighbours: one form, algebra, folding, common and dead code, scale."""

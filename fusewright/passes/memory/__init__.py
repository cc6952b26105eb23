"""From a graph to its Program: order, storage, places in memory. Must not change the graph."""

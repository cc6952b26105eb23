"""What passes are made of: patterns, rewrites, the driver, statistics, the journal. Must not know any pass."""

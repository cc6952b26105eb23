"""Passes on loops: counted ones become scans, what does not change leaves them. Must not know what lies inside."""

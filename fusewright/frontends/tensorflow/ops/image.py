"""Image ops: resizing, colour, crops.

Owns TensorFlow's coordinate conventions.
"""

from __future__ import annotations

"""Makes the registries beside this file importable, and the samplers of the tests of passes."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "passes")]

"""The plugin and its behaviours are no tests, and are imported by their file names."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
collect_ignore = [path.name for path in HERE.glob("*.py") if not path.name.startswith("test_")]
sys.path.append(str(HERE))

"""Where the `tandem` command begins: this checkout's packages come before any others of their names on PYTHONPATH."""

import sys
from pathlib import Path


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from cli.main import main as tandem  # only now is `cli` ours

    tandem()

"""Writes movielens_small_mol.safetensors beside this script from a finished run of the recipe.

genrec-lite train --recipe movielens-small-mol
python data/make_movielens_small_mol.py runs/movielens-small-mol/seed-0
"""

import sys
from pathlib import Path

from genrec_lite.recipes.trained import write_trained


def main() -> None:
    """Writes the file, or says how the script is called."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(write_trained(Path(sys.argv[1])))


if __name__ == "__main__":
    main()

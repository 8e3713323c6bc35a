"""`python -m serve`: the same as `tidegate serve`."""

import sys

from tidegate.__main__ import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])

"""`python -m node` is `roseforest`."""

from node.cli import main

if __name__ == "__main__":
    main()

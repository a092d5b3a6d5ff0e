"""`python -m lissom` is `lissom`."""

from lissom.cli import main

if __name__ == "__main__":
    main()

"""The command line as ``python -m ddcal``."""

from ddcal.cli import main

if __name__ == "__main__":
    main()

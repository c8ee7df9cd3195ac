"""`python -m streamclf`: the command line."""

from streamclf.cli import main

if __name__ == "__main__":
    main()

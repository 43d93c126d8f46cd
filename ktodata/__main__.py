"""`python -m ktodata`."""

from ktodata.cli import main

if __name__ == "__main__":
    main(prog_name="ktodata")

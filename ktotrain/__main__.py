"""`python -m ktotrain` is `ktotrain`."""

from ktotrain.cli import main

if __name__ == "__main__":
    main(prog_name="ktotrain")

"""``python -m mmser``."""

from mmser.cli import main

if __name__ == "__main__":
    main(prog_name="mmser")

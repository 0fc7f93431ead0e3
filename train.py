"""The command line, without installing the package: ``python train.py run --config icnn_parts``."""

from pellucid.cli import main

if __name__ == "__main__":
    main()

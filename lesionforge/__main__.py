"""`python -m lesionforge VERB ...`, the form that torchrun starts."""

from lesionforge.cli import main

if __name__ == "__main__":
    main()

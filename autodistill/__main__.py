"""`python -m autodistill` is the command line."""

from autodistill.cli.app import app

if __name__ == "__main__":
    app()

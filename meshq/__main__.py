"""`python -m meshq` is the command `meshq`."""

from meshq.cli.main import main

if __name__ == "__main__":
    main()

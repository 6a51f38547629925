"""`python -m deniable.cli` is the `deniable` command."""

from deniable.cli import main

main()

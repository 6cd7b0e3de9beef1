"""`python -m foodray` is the `foodray` command."""

from foodray.cli import main

main()

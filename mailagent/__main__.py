"""`python -m mailagent` is the command `mailagent`."""

from mailagent.cli import main

main()

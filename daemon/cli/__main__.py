"""`python -m daemon.cli`: the same as `tallyd`."""

from daemon.cli import main

main()

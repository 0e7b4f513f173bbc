"""The embedded stack: private Redis, MongoDB and MariaDB servers on unix sockets, their data under one directory.

For development, tests and benches, through `daemon.devstack.stack`. Never in production.
"""

"""Puts tallyd on a server, and takes it off again: user, folders, units, credentials and a first configuration.

`shipped` finds the files that every installation carries. `answers` makes the configuration of a few answers. `system`
lists what lies where, and writes it.

Who calls it: `tallyd init`, `tallyd install` and `tallyd uninstall`. It starts nothing, and opens no connection.
"""

"""Checks of the stores and of this machine. Each finding says what is wrong, why it matters and how to mend it.

For each store one module reads (`…_facts`), and one checks what was read (`…_checks`, plain functions in a list).
`checks` runs all of them for `tallyd doctor`. `startup` runs the few that a daemon must pass before it starts.

The doctor leaves nothing changed. It deletes its scratch writes at once: a key in Redis, a document in MongoDB, and a
file without a name beside the spool.
"""

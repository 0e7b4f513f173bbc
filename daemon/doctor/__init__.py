"""Whether the ground tallyd stands on is firm: what is wrong with the stores and this machine, why, and how to mend it.

One module a store reads (`…_facts`), one judges what was read (`…_checks`: plain functions, listed in a literal), and
`examine` puts them together for `tallyd doctor`. `startup` is the fatal part, which the daemons run before they begin.

Nothing here changes anything, except scratch writes that are taken back at once: a key in Redis, a document in
MongoDB, a file without a name beside the spool.
"""

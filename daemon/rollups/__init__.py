"""MongoDB: the rollups, and what could not be written to them.

build.py          a claim turned into documents; pure
mongo.py          writing them so that a claim counts once; reading sums
collections.py    every collection's name and fields
floors.py         the highest seq written, and what was there when a Redis began to count
dead_letters.py   amounts that no document could take
history_marks.py  entities whose history is half written
errors.py         MongoDB's errors, sorted
"""

"""Tracker and dashboard in a real Chromium, against the real daemon and the real stores.

conftest.py   the fixtures: one Chromium, one daemon and one system a module; a new profile a test
browser.py    Chromium: how it is started, tabs that are really in the background, what the tracker keeps in a page
site.py       a demo site, on another origin than tallyd and behind nginx on the same one
faults.py     a proxy between browser and daemon, through which faults come request by request
dashboard.py  a dashboard with something to see, and how a test looks at it
chaos.py      four tabs that do things at random while requests fail at random
"""

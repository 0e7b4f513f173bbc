"""Names of collections stand in one place."""

from __future__ import annotations

import re
from pathlib import Path

import daemon
from daemon.domain.rollup import EXPIRING, KINDS, OF_DOMAINS
from daemon.rollups import collections


def test_only_this_file_names_a_collection() -> None:
    package = Path(daemon.__file__).parent
    named = {
        path: set(re.findall(r'"(analytics_[a-z_]+)"', path.read_text()))
        for path in package.rglob("*.py")
        if path != Path(collections.__file__)
    }
    assert {path: names for path, names in named.items() if names} == {}


def test_every_collection_has_its_fields_listed() -> None:
    names = {name for key, name in vars(collections).items() if key.isupper() and isinstance(name, str)}
    names |= {kind.collection for kind in (*KINDS, *OF_DOMAINS)} | {kind.expired_collection for kind in EXPIRING}
    assert names == set(collections.FIELDS)

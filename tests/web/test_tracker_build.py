"""The built tracker: the committed file is what the sources make, and it is small."""

from __future__ import annotations

import gzip

from ops.web import build

GZIPPED_BYTES_MAX = 2_560


def test_the_committed_file_is_built_from_the_source_by_the_pinned_tools() -> None:
    assert build.BUILT.read_bytes() == build.build(), "type: ./justw web"


def test_the_built_file_is_small_as_it_is_served() -> None:
    assert len(gzip.compress(build.BUILT.read_bytes(), mtime=0)) <= GZIPPED_BYTES_MAX


def test_the_lock_names_a_hash_of_every_package_and_no_host() -> None:
    lock = (build.TRACKER / "package-lock.json").read_text()
    assert lock.count('"integrity": "sha512-') == lock.count('"node_modules/')
    assert "://" not in lock.replace("https://github.com", "").replace("https://opencollective.com", "")

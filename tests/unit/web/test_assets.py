"""The tracker's files as they are answered: compressed for those who take it, tagged, and not sent twice."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping

import pytest

from daemon.config import Browser
from daemon.response import Response
from daemon.web.assets import Asset, Assets
from tests.kit.commands import ROOT

CONTENT = b"export const text = 'the same words, and the same words, and the same words again';\n"
ASSET = Asset(CONTENT, "no-store")


def asked(headers: Mapping[str, str], asset: Asset = ASSET) -> Response:
    return asset.answer(lambda name: [headers[name]] if name in headers else [])


def header(answer: Response, name: str) -> str:
    return dict(answer.headers).get(name, "")


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        ("", False),
        ("gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("br, GZIP;q=0.1", True),
        ("*", True),
        ("br;q=1, *;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip ; q=0.000", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("xgzip, gzipped", False),
        (",;q=,", False),
        ("x," * 15 + "gzip", True),
        ("x," * 16 + "gzip", False),
    ],
)
def test_it_is_compressed_for_those_who_take_it(accepted: str, is_compressed: bool) -> None:
    answer = asked({"accept-encoding": accepted})
    assert (header(answer, "content-encoding") == "gzip") == is_compressed
    assert (gzip.decompress(answer.body) if is_compressed else answer.body) == CONTENT


def test_each_representation_has_a_strong_tag_of_its_own() -> None:
    plain, gzipped = (header(asked({"accept-encoding": coding}), "etag") for coding in ("", "gzip"))
    assert plain != gzipped
    assert all(tag.startswith('"') for tag in (plain, gzipped))
    assert header(asked({}, Asset(CONTENT + b"\n", "no-store")), "etag") != plain


def test_a_tag_that_is_known_is_answered_without_the_file() -> None:
    for coding in ("", "gzip"):
        found = asked({"accept-encoding": coding})
        tag = header(found, "etag")
        for known in (tag, f"W/{tag}", f'"other", {tag}', f'W/"other",W/{tag} , "third"', "*"):
            answer = asked({"accept-encoding": coding, "if-none-match": known})
            assert (answer.status, answer.body) == (304, b"")
            told = {name: value for name, value in found.headers if name not in ("content-type", "content-encoding")}
            assert dict(answer.headers) == told
        for other in ('"other"', tag.strip('"'), ""):
            assert asked({"accept-encoding": coding, "if-none-match": other}).status == 200


def test_the_tag_of_another_coding_is_not_this_one() -> None:
    tag = header(asked({"accept-encoding": "gzip"}), "etag")
    assert asked({"if-none-match": tag}).status == 200


def test_the_configuration_decides_what_is_served() -> None:
    assets = Assets()
    built_in = assets.by_path(Browser())
    for script, beside in (("/js/s.js", {"/js/counts.js"}), ("/s", set())):
        more = assets.by_path(Browser(script=script)).keys() - built_in.keys()
        assert more == {script, assets.hashed(script), *beside}
    assert assets.by_path(Browser(tracker=False, script="/s.js")) == {}


def test_the_file_of_a_released_version_is_still_served() -> None:
    """Pages name it by its hash. The changelog names it from its release on."""
    released = re.findall(r"`(/analytics\.[0-9a-f]{12}\.js)`", (ROOT / "ops/CHANGELOG.md").read_text())
    assert set(released) <= Assets().by_path(Browser()).keys()

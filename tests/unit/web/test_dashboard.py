"""The dashboard's files: what the package holds, and the names that the page gives them."""

from __future__ import annotations

import re

import pytest

from daemon.response import Response
from daemon.web import dashboard
from daemon.web.assets import Asset
from tests.kit.commands import ROOT

FOLDER = ROOT / "daemon/web/static/dashboard"


def found(asset: Asset) -> Response:
    return asset.answer(lambda _: [])


@pytest.mark.parametrize("demo", [False, True])
def test_each_name_of_the_page_is_a_file_that_is_served(demo: bool) -> None:
    html = found(dashboard.page(demo=demo)).body.decode()
    named = re.findall(r'"(dashboard/[^"]*)"', html)
    assert named
    assert {f"/{name}" for name in named} <= dashboard.files().keys()
    assert html.count("data-demo") == demo


def test_a_module_imports_only_what_is_served() -> None:
    for path, asset in dashboard.files().items():
        if path.endswith(".js"):
            here = path.rpartition("/")[0]
            for name in re.findall(r'(?:from|import)\s*\(?\s*"(\./[^"]+)"', found(asset).body.decode()):
                assert f"{here}/{name.removeprefix('./')}" in dashboard.files(), f"{path} imports {name}"


def test_all_files_of_the_folder_are_served_but_those_of_another_kind() -> None:
    kinds = {each.suffix for each in FOLDER.rglob("*") if each.is_file()}
    assert kinds <= {*dashboard.KINDS, "", ".md", ".txt"}, "the suffix of a file says its content type"
    assert len(dashboard.files()) == sum(each.suffix in dashboard.KINDS for each in FOLDER.rglob("*"))


def test_the_page_brings_no_script_and_no_style_of_its_own() -> None:
    """Its Content-Security-Policy refuses them."""
    html = (FOLDER.with_suffix(".html")).read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<base|<form|https?://|<script(?![^>]*\ssrc=)", html)

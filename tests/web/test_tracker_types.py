"""The npm folder, as an application takes it: packed, installed, imported, and checked against its types."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from ops.web.build import TRACKER, node, npm, tools

USE = """
import analytics, { AnalyticsService, type TrackOptions } from "tallyd-tracker";

const options: TrackOptions = { value: 4, userId: null, occurredAt: new Date().toISOString(), dedupe: false };
const told: Promise<boolean> = analytics.track("rating", "movie", 7, options);
void told.then((counted) => console.log(counted));
void analytics.track("view", "movie", undefined);
void analytics.track("view", "movie", "a", 99);
analytics.reset();
analytics.scan(document.body);

const own = new AnalyticsService({
  endpoint: "/t",
  defaultDomain: "shop",
  actions: "view",
  types: "book",
  ranges: "view:1-1",
  windowS: 7_200,
  privacy: "respect",
  storage: window.localStorage,
  httpClient: { post: async (url: string, payload: unknown) => console.log(url, payload) },
});
own.storage = null;
own.inMemory.clear();
"""
WRONG = """
import analytics, { AnalyticsService } from "tallyd-tracker";

// @ts-expect-error an action that is a number
analytics.track(1, "movie", "a");
// @ts-expect-error an id that is an object
analytics.track("view", "movie", {});
// @ts-expect-error a value that is text
analytics.track("view", "movie", "a", { value: "4" });
// @ts-expect-error an option that is none
analytics.track("view", "movie", "a", { amount: 4 });
// @ts-expect-error an answer that is no promise
const told: boolean = analytics.track("view", "movie", "a");
// @ts-expect-error a client that sends nothing
new AnalyticsService({ httpClient: {} });
"""


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("consumer")
    packed = json.loads(npm("pack", "--json", "--pack-destination", folder, cwd=TRACKER))[0]
    assert {file["path"] for file in packed["files"]} == {
        *("README.md", "package.json", "analytics.js", "analytics.d.ts", "counts.js")
    }
    (folder / "package.json").write_text('{ "type": "module" }')
    npm("install", "--offline", folder / packed["filename"], cwd=folder)
    return folder


@pytest.mark.parametrize("resolution", ["bundler", "nodenext"])
def test_an_application_type_checks(consumer: Path, resolution: str) -> None:
    check(consumer, USE, resolution)


def test_a_wrong_use_does_not(consumer: Path) -> None:
    check(consumer, WRONG, "bundler")
    with pytest.raises(CalledProcessError):
        check(consumer, WRONG.replace("@ts-expect-error", ""), "bundler")


def test_a_server_imports_it_and_nothing_happens(consumer: Path) -> None:
    program = 'import analytics from "tallyd-tracker"; console.log(await analytics.track("view", "provider", "a"));'
    assert node("--input-type=module", "--eval", program, cwd=consumer) == "false\n"


def check(consumer: Path, source: str, resolution: str) -> None:
    (consumer / "use.ts").write_text(source)
    module = "nodenext" if resolution == "nodenext" else "esnext"
    options = ("--noEmit", "--strict", "--target", "es2022", "--module", module, "--moduleResolution", resolution)
    node(tools() / "typescript" / "bin" / "tsc", *options, "use.ts", cwd=consumer)

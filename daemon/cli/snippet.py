"""`tallyd snippet`: prints the tag that puts the tracker into a page, with what this configuration counts."""

from __future__ import annotations

from html import escape
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from daemon.cli.options import ConfigOption, DataOption, DomainOption, chosen_type, load
from daemon.config import Config, domain_actions, effective_actions
from daemon.errors import ConfigError


def snippet(
    config: ConfigOption = None,
    data: DataOption = None,
    origin: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Where browsers reach the ingest daemon, as https://count.example. Default: the page's own origin.",
        ),
    ] = "",
    domain: DomainOption = None,
    module: Annotated[
        bool, typer.Option("--module", help="Print a module, too, that imports the tracker for a page's own code.")
    ] = False,
) -> None:
    """Print the tag that puts the tracker into a page.

    It names the domain, its actions, entity types and values, and how long event ids are remembered. So print it anew
    when the configuration changes. `integrity` is the hash of the file: a browser runs no other one. Its name holds the
    hash, too, so browsers keep it. The file stays when tallyd is upgraded, and with it the tag.

    Example: `tallyd snippet --origin https://count.example`
    """
    from daemon.ingest.app import EVENTS_PATH
    from daemon.web.assets import NAME, Assets

    loaded = load(config, data)
    base = _base(origin)
    browser = loaded.browser
    if not browser.tracker:
        raise ConfigError("browser.tracker is false, so the ingest daemon does not serve the tracker.")
    name, entity_type = chosen_type(loaded, domain, None)
    assets = Assets()
    source = base + assets.hashed(browser.script or NAME)
    tag = {
        "type": "module",
        "src": source,
        "integrity": assets.integrity,
        "crossorigin": "anonymous",
        "data-endpoint": base + (browser.alias or EVENTS_PATH),
        **_counted(loaded, name),
    }
    attributes = "".join(f'\n  {name}="{escape(value)}"' for name, value in tag.items())
    # async: a page is ready without it, also while the daemon is slow or away.
    print(f"<script async{attributes}></script>")
    if module:
        action = domain_actions(loaded, name)[0]
        print(f'<script type="module">\n  import analytics from {_quoted(source)};')
        print(f'  analytics.track("{action}", "{entity_type}", "ID");\n</script>')
    if not browser.alias:
        typer.echo(f"browser.alias is empty: ad blockers know {EVENTS_PATH}. Name another path there, as /t.", err=True)
    if base and not browser.origins:
        typer.echo(
            f"browser.origins is empty: only pages of {base} itself can read whether their events were counted. Name"
            " the origins of your pages there.",
            err=True,
        )
    if loaded.ingest.require_key:
        typer.echo("ingest.require_key is true: events of browsers get 401, because they have no key.", err=True)


def _base(origin: str) -> str:
    """The URL without a / at its end. Raises ConfigError if it is none that a page may name."""
    wrong = ConfigError(f"--origin: {origin} is not a URL like https://count.example.")
    try:
        parts = urlsplit(origin)
    except ValueError:  # as "https://["
        raise wrong from None
    if origin and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
        raise wrong
    return origin.rstrip("/")


def _quoted(text: str) -> str:
    """As a string of JavaScript inside of HTML."""
    return msgspec.json.encode(text).decode().replace("<", r"\u003c")


def _counted(config: Config, domain: str) -> dict[str, str]:
    """What the domain counts, as attributes."""
    actions = domain_actions(config, domain)
    of = effective_actions(config)
    return {
        "data-domain": domain,
        "data-actions": " ".join(actions),
        "data-types": " ".join(config.domains[domain].entity_types),
        "data-ranges": " ".join(f"{name}:{of[name].value_min}-{of[name].value_max}" for name in actions),
        "data-window-s": str(config.dedupe.window_s),
    }

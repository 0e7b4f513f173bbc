"""`tallyd capacity`: how large the servers must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from daemon import config as configuration
from daemon.cli.options import ConfigOption, DataOption, JsonOption
from daemon.cli.output import print_json, print_table, say, wide_console

if TYPE_CHECKING:
    from daemon.doctor.capacity import Need


def capacity(
    events_per_second: Annotated[float, typer.Option(min=0.001, help="Events a second, the mean over a day.")],
    entities: Annotated[int, typer.Option(min=1, help="Entities that there are.")],
    active: Annotated[int | None, typer.Option(min=1, help="Of them, those counted on one day. Default: all.")] = None,
    peak: Annotated[float, typer.Option(min=1, help="The busiest second, as a multiple of the mean.")] = 3.0,
    batches: Annotated[bool, typer.Option("--batches", help="Events come in batches, not one a request.")] = False,
    outage_hours: Annotated[float, typer.Option(min=0, help="How long a store may be away.")] = 4.0,
    years: Annotated[float, typer.Option(min=0.1, help="For how long MongoDB's disk should do.")] = 1.0,
    node_gib: Annotated[float, typer.Option(min=1, help="Memory of a machine that runs Redis.")] = 64.0,
    node_mbit: Annotated[float, typer.Option(min=10, help="Network of such a machine, Mbit/s.")] = 1_000.0,
    host_cores: Annotated[int, typer.Option(min=1, help="Cores of a machine that runs ingest workers.")] = 8,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what memory, disk and cores this takes, and which keys of the configuration are too small for it.

    It asks no server. Its figures are measured ones: see ops/capacity.md.

    Example: `tallyd capacity --events-per-second 500 --entities 1000000 --active 100000`
    """
    from daemon.doctor.capacity import Load, shown
    from daemon.doctor.capacity import capacity as compute

    loaded = configuration.load(config, data=data)
    of_day = min(entities, active or entities, max(1, int(events_per_second * 86_400)))
    load = Load(
        events_per_second, entities, of_day, peak, batches, outage_hours, years, node_gib * 2**30, node_mbit, host_cores
    )
    found = compute(loaded, load)
    if as_json:
        print_json(found)
        return

    def row(need: Need) -> tuple[str, str, str]:
        return need.what, shown(need), need.of

    print_table(("what", "at least", "for"), map(row, found.needs), console=wide_console())
    say(f"What is too small first, as the load grows: {found.first}.")
    for key, value in found.settings.items():
        say(f"{key} = {value}")
    if not found.settings:
        say("The configuration is large enough for it.")

"""The configuration: one TOML file, every key overridable from the environment, frozen once read.

`schema` declares the keys, `load` reads them, `check` names every problem, `effective` says what follows from them.
`places` finds the line of a key; `generate` writes the example file and the JSON Schema.

Callers import from here. This room opens no connection.
"""

from __future__ import annotations

from daemon.config.effective import (
    address_of,
    chosen_tables,
    domain_actions,
    domain_counters,
    effective_actions,
    masked,
    ranked_kinds,
    replica_tables,
    require,
)
from daemon.config.load import ENV_PREFIX, ENV_STACK_PREFIX, load
from daemon.config.schema import (
    Config,
    Flush,
    Http,
    Import,
    ImportRoute,
    MongoSection,
    MysqlSection,
    Read,
    RedisSection,
    ReplicaTable,
    SpoolSection,
    read_at_start,
)

__all__ = [
    "ENV_PREFIX",
    "ENV_STACK_PREFIX",
    "Config",
    "Flush",
    "Http",
    "Import",
    "ImportRoute",
    "MongoSection",
    "MysqlSection",
    "Read",
    "RedisSection",
    "ReplicaTable",
    "SpoolSection",
    "address_of",
    "chosen_tables",
    "domain_actions",
    "domain_counters",
    "effective_actions",
    "load",
    "masked",
    "ranked_kinds",
    "read_at_start",
    "replica_tables",
    "require",
]

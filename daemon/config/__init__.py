"""The configuration: one TOML file, every key overridable from the environment, frozen once read.

`schema` declares the keys, `load` reads them, `check` names every problem, `effective` says what follows from them.
`url` knows the addresses of the stores. `places` finds the line of a key; `generate` writes the example file and the
JSON Schema.

Callers import from here. This room opens no connection.
"""

from __future__ import annotations

from daemon.config.effective import NOTHING_MAPPED as NOTHING_MAPPED
from daemon.config.effective import chosen_tables as chosen_tables
from daemon.config.effective import domain_actions as domain_actions
from daemon.config.effective import domain_counters as domain_counters
from daemon.config.effective import effective_actions as effective_actions
from daemon.config.effective import has_windows as has_windows
from daemon.config.effective import hourly_domains as hourly_domains
from daemon.config.effective import kept_kinds as kept_kinds
from daemon.config.effective import key_hashes as key_hashes
from daemon.config.effective import masked as masked
from daemon.config.effective import moved_counters as moved_counters
from daemon.config.effective import offered_windows as offered_windows
from daemon.config.effective import producer_names as producer_names
from daemon.config.effective import ranked_kinds as ranked_kinds
from daemon.config.effective import raw_counter as raw_counter
from daemon.config.effective import reads_are_keyed as reads_are_keyed
from daemon.config.effective import replica_tables as replica_tables
from daemon.config.effective import require as require
from daemon.config.effective import robot_counter as robot_counter
from daemon.config.effective import signs as signs
from daemon.config.effective import unmapped_types as unmapped_types
from daemon.config.effective import valued_actions as valued_actions
from daemon.config.keyfile import HASH_PREFIX as HASH_PREFIX
from daemon.config.keyfile import at_rest as at_rest
from daemon.config.keyfile import has_expired as has_expired
from daemon.config.keyfile import hashed as hashed
from daemon.config.keyfile import read_entries as read_entries
from daemon.config.load import ENV_PREFIX as ENV_PREFIX
from daemon.config.load import ENV_STACK_PREFIX as ENV_STACK_PREFIX
from daemon.config.load import SYSTEM_FILE as SYSTEM_FILE
from daemon.config.load import chosen_file as chosen_file
from daemon.config.load import load as load
from daemon.config.load import secret_files as secret_files
from daemon.config.schema import DOMAINS_OF_STACK as DOMAINS_OF_STACK
from daemon.config.schema import REPLICA_OF_STACK as REPLICA_OF_STACK
from daemon.config.schema import UNIX as UNIX
from daemon.config.schema import Browser as Browser
from daemon.config.schema import Budget as Budget
from daemon.config.schema import Config as Config
from daemon.config.schema import Dashboard as Dashboard
from daemon.config.schema import Flush as Flush
from daemon.config.schema import Http as Http
from daemon.config.schema import Import as Import
from daemon.config.schema import ImportRoute as ImportRoute
from daemon.config.schema import Ingest as Ingest
from daemon.config.schema import KeyEntry as KeyEntry
from daemon.config.schema import MongoSection as MongoSection
from daemon.config.schema import MysqlSection as MysqlSection
from daemon.config.schema import RateLimit as RateLimit
from daemon.config.schema import Read as Read
from daemon.config.schema import RedisSection as RedisSection
from daemon.config.schema import ReplicaTable as ReplicaTable
from daemon.config.schema import SpoolSection as SpoolSection
from daemon.config.schema import Traces as Traces
from daemon.config.schema import read_at_start as read_at_start
from daemon.config.url import address_of as address_of
from daemon.config.url import hosts_of as hosts_of
from daemon.config.url import is_cluster as is_cluster
from daemon.config.url import mysql_of as mysql_of
from daemon.config.url import tls_of as tls_of
from daemon.config.url import url_at as url_at

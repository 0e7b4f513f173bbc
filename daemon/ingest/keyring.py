"""The producers' keys of one worker: whose a key is, what it may send, and until when.

`app.py` asks it for each request with a key or a signature. Keys are kept as hashes. A key that was found once is
remembered as it came, so the next request costs one look into a dictionary. Only good keys are remembered.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import time
from collections.abc import Callable

from msgspec.structs import replace

from daemon.buffer.wire import Limit
from daemon.config import Config, KeyEntry, at_rest, domain_actions, has_expired, hashed, signs
from daemon.ingest.accounts import PRODUCER, Account
from daemon.ingest.decode import Decoder, build_catalogue

SIGNATURE_HEADER = "x-tallyd-signature"


class KeyAccount(Account):
    """Of one key. All keys of a producer send the ids of that producer."""

    __slots__ = ("expires", "id", "used")

    def __init__(self, entry: KeyEntry, decoder: Decoder | None, clock: Callable[[], float]) -> None:
        limit = Limit(entry.events_per_minute, 0) if entry.events_per_minute else None
        super().__init__(f"{PRODUCER}{entry.name}", entry.name, 0, clock, limit)
        self.id = entry.id
        self.expires = entry.expires
        self.decoder = decoder
        self.used = False
        """Since the last call of `Keyring.used`."""


class Keyring:
    """Of one configuration."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        """`clock`: of the accounts."""
        self.seen: dict[str, KeyAccount] = {}
        """Good keys as they came → whose they are."""
        self._by_hash: dict[str, KeyAccount] = {}
        self._signing: dict[str, tuple[bytes, KeyAccount]] = {}
        self.signs = signs(config)
        self._window_s = config.keys.signature_window_s
        self._today = _today()
        for name, key in config.producers.keys.items():
            entry = KeyEntry(id=name, name=name, hash=at_rest(key))
            self._by_hash[entry.hash] = KeyAccount(entry, None, clock)
        for entry in config.keys.entries:
            if entry.kind != "producer":
                continue
            account = KeyAccount(entry, _decoder(config, entry), clock)
            if entry.secret:
                self._signing[entry.id] = entry.secret.encode(), account
            else:
                self._by_hash[entry.hash] = account
        self._forget_expired()

    def find(self, key: str) -> KeyAccount | None:
        """Whose a key is that has not been seen yet; None: nobody's, or it has expired."""
        account = self._by_hash.get(hashed(key))
        if account is not None:
            self.seen[key] = account
        return account

    def signer(self, signature: str, path: str, body: bytes) -> KeyAccount | None:
        """Who signed a request: `key=ID,t=SECONDS,v1=HEX`, the HMAC-SHA256 of `SECONDS.path.body` in hex.

        None: nobody, or at another time than now.
        """
        parts = dict(part.strip().partition("=")[::2] for part in signature.split(","))
        secret, account = self._signing.get(parts.get("key", ""), (b"", None))
        at = parts.get("t", "")
        if account is None or not at.isdigit() or abs(int(at[:15]) - time.time()) > self._window_s:
            return None
        expected = hmac.new(secret, f"{at}.{path}.".encode() + body, hashlib.sha256).hexdigest()
        return account if hmac.compare_digest(expected.encode(), parts.get("v1", "").encode()) else None

    def used(self) -> list[str]:
        """The ids of the keys that came since the last call. Call it now and then: a key expires then, too."""
        if (today := _today()) != self._today:
            self._today = today
            self._forget_expired()
        accounts = [*self._by_hash.values(), *(account for _, account in self._signing.values())]
        found = [account.id for account in accounts if account.used]
        for account in accounts:
            account.used = False
        return found

    def _forget_expired(self) -> None:
        def holds(account: KeyAccount) -> bool:
            return not has_expired(account.expires, self._today)

        self._by_hash = {key: account for key, account in self._by_hash.items() if holds(account)}
        self.seen = {key: account for key, account in self.seen.items() if holds(account)}
        self._signing = {key: pair for key, pair in self._signing.items() if holds(pair[1])}


def _decoder(config: Config, entry: KeyEntry) -> Decoder | None:
    """A decoder that admits what the key may send, and says of other events what it would have admitted."""
    if not entry.domains and not entry.actions:
        return None
    domains = {
        name: replace(section, actions=actions)
        for name, section in config.domains.items()
        if (not entry.domains or name in entry.domains)
        and (actions := tuple(a for a in domain_actions(config, name) if not entry.actions or a in entry.actions))
    }
    catalogue = build_catalogue(replace(config, domains=domains))
    return Decoder(catalogue, batch_events_max=config.http.batch_events_max, clock=time.time)


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()

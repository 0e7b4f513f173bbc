"""A sender's account: what it costs is charged to it alone, and it is whole again soon."""

from __future__ import annotations

import pytest

from daemon.config import Budget
from daemon.ingest.accounts import RELEASE_S, Account, Accounts, payer


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_budget_can_be_spent_at_once_and_comes_back_evenly() -> None:
    clock = Clock()
    account = Account("198.51.100.7", "", 60, clock)
    for _ in range(60):
        assert account.left_ms() == 0
        account.charge(1)
    account.charge(1)
    assert account.left_ms() == 1_000, "one more than there was"
    clock.now_s += 1.001
    assert account.left_ms() == 0
    account.charge(3)
    assert account.left_ms() == pytest.approx(3_000, abs=5), "it may be overdrawn, and then takes longer"
    account.charge(1_000_000)
    assert account.left_ms() == RELEASE_S * 1_000, "but never much longer"


def test_what_redis_said_holds_until_the_moment_it_named() -> None:
    clock = Clock()
    account = Account("198.51.100.7", "", 0, clock)
    account.charge(1_000_000)
    assert account.left_ms() == 0, "no budget, no bound"
    account.block(1_500)
    assert account.events_left_ms() == 1_500
    assert account.left_ms() == 0, "it may read"
    clock.now_s += 1.5
    assert account.events_left_ms() == 0


def test_who_has_spent_its_budget_sends_no_events() -> None:
    account = Account("198.51.100.7", "", 60, Clock())
    account.charge(62)
    assert account.left_ms() == account.events_left_ms() == 2_000


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("[2001:db8:1:2:3:4:5:6]", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unix"),
        ("a:b", "a:b"),
    ],
)
def test_who_pays_for_an_address(address: str, name: str) -> None:
    assert payer(address) == name
    assert Accounts(Budget(), Clock()).of(address).name == name


def test_all_addresses_of_one_network_share_an_account() -> None:
    accounts = Accounts(Budget(), Clock())
    assert accounts.of("2001:db8::1") is accounts.of("2001:db8::2")
    assert accounts.of("2001:db8::1") is not accounts.of("2001:db8:0:1::1")
    assert accounts.of("::ffff:198.51.100.7") is accounts.of("198.51.100.7")


def test_the_address_that_came_first_is_forgotten_first() -> None:
    accounts = Accounts(Budget(addresses_max=2), Clock())
    first, second = accounts.of("198.51.100.1"), accounts.of("198.51.100.2")
    accounts.of("198.51.100.3")
    assert accounts.of("198.51.100.2") is second
    assert accounts.of("198.51.100.1") is not first

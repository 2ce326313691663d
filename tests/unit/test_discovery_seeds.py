"""Seeds: how they are written, and how their names are followed."""

from __future__ import annotations

import asyncio

import pytest

from meshq.discovery.seeds import Seed, Seeds, parse, parse_all, resolve
from meshq.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("box:7373", Seed("box", 7373)),
        ("my_box.example.org.:1", Seed("my_box.example.org.", 1)),
        (" 10.0.0.1:7373 ", Seed("10.0.0.1", 7373)),
        ("[fd00::1]:7373", Seed("fd00::1", 7373)),
    ],
)
def test_seeds_are_read(text: str, seed: Seed) -> None:
    assert parse(text) == seed
    assert str(seed) == text.strip()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("box", "the port is missing, as in box:7373"),
        ("box:99999", "'99999' is no number"),
        ("fd00::1", "needs brackets"),
        ("10.0.0:7373", "'10.0.0' is neither"),
        ("10.0.0.300:7373", "'10.0.0.300' is neither"),
        ("[box]:7373", "'box' is neither"),
        ("a box:7373", "'a box' is neither"),
        ("http://box:7373", "needs brackets"),
        ("-box:7373", "'-box' is neither"),
        ("b" * 64 + ".org:7373", "is neither"),
        ("box..org:7373", "is neither"),
    ],
)
def test_what_is_wrong_is_named(text: str, names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.message.startswith("--seed ")
    assert names in caught.value.message


def test_each_seed_counts_once() -> None:
    assert parse_all(["b:1", "a:1", "b:1"]) == (Seed("b", 1), Seed("a", 1))


async def test_an_ip_address_needs_no_lookup() -> None:
    assert await resolve(Seed("192.0.2.1", 7373)) == ("192.0.2.1:7373",)
    assert await resolve(Seed("fd00::1", 7373)) == ("[fd00::1]:7373",)


async def test_a_name_is_looked_up() -> None:
    assert "127.0.0.1:7373" in await resolve(Seed("localhost", 7373))


async def test_ip_seeds_are_told_once_and_then_it_ends() -> None:
    told: list[tuple[Seed, tuple[str, ...]]] = []
    seeds = Seeds(
        [Seed("192.0.2.1", 1), Seed("192.0.2.2", 2)], lambda seed, found: told.append((seed, found)), _unexpected
    )
    await asyncio.wait_for(seeds.run(), 5)
    assert told == [(Seed("192.0.2.1", 1), ("192.0.2.1:1",)), (Seed("192.0.2.2", 2), ("192.0.2.2:2",))]


async def test_a_name_that_leads_nowhere_is_told_once_and_holds_up_no_other() -> None:
    failed: list[Seed] = []
    found = asyncio.Event()

    def on_failed(seed: Seed, reason: str) -> None:
        assert reason
        failed.append(seed)

    seeds = Seeds(
        [Seed("no-such-host.invalid", 1), Seed("localhost", 2)], lambda *_: found.set(), on_failed, retry_s=0.01
    )
    running = asyncio.ensure_future(seeds.run())
    await asyncio.wait_for(found.wait(), 10)
    async with asyncio.timeout(20):
        while True:
            if failed:
                break
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert failed == [Seed("no-such-host.invalid", 1)]


def _unexpected(seed: Seed, reason: str) -> None:
    raise AssertionError(f"{seed}: {reason}")

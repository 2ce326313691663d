"""A node's keys: where they come from, and how they are changed without anybody being shut out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from meshq.config import Config
from meshq.core.keys import Key
from meshq.errors import BadKey, ConfigError, Conflict, StoreError
from meshq.node import keyring
from meshq.node.keyring import Keyring
from meshq.store import keyfile
from meshq.store.keyfile import Held

OLD, NEW, OTHER = (Key(bytes([number]) * 20) for number in (1, 2, 3))
BITS = random.Random(4).getrandbits


def take(folder: Path, **settings: Any) -> Keyring:
    return keyring.take(Config(**settings), folder, BITS)


def holding(folder: Path, *keys: Key, dropped: tuple[str, ...] = ()) -> Keyring:
    folder.mkdir(exist_ok=True)
    keyfile.write(folder, Held(keys, dropped))
    return Keyring(folder, keyfile.read(folder))


def hear(one: Keyring, other: Keyring) -> None:
    """One hears the other's hello."""
    one.learn(other.offered, other.held.dropped)


# -- where they come from --------------------------------------------------------------------------------


def test_the_first_start_makes_a_key_and_the_second_finds_it(tmp_path: Path) -> None:
    first = take(tmp_path)
    assert first.made
    assert first.secured
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    again = take(tmp_path)
    assert (again.held, again.made) == (first.held, False)
    assert take(tmp_path, key=first.held.keys[0].text).held == first.held


def test_a_key_that_is_given_is_kept_in_place_of_another(tmp_path: Path) -> None:
    made = take(tmp_path)
    other = take(tmp_path, key=OLD.text.upper())
    assert other.held == Held((OLD,))
    assert made.held.keys[0].name in other.warning
    assert OLD.name in other.warning
    assert take(tmp_path).held == Held((OLD,))
    assert take(tmp_path, key=OLD.text).warning == take(tmp_path).warning == made.warning == ""
    aside = tmp_path / f"key.{made.held.keys[0].name}"
    assert str(aside) in other.warning
    assert aside.read_text() == f"{made.held.keys[0].text}\n", "nothing that a person may want back is deleted"
    assert aside.stat().st_mode & 0o777 == 0o600


def test_what_another_key_means_for_the_queue_is_told_where_there_is_one(tmp_path: Path) -> None:
    holding(tmp_path, OLD)
    assert "queue" not in take(tmp_path, key=NEW.text).warning
    (tmp_path / "queue.db").write_bytes(b"rows")
    warning = take(tmp_path, key=OTHER.text, key_from="MESHQ_KEY").warning
    assert warning.startswith(f"MESHQ_KEY gives {OTHER.name}, and it takes the place of {NEW.name}")
    aside, path = tmp_path / f"key.{NEW.name}", tmp_path / "key"
    for said in (f"`mv {aside} {path}`", "`meshq leave` before it is given that key"):
        assert said in warning
    aside.rename(path)
    assert take(tmp_path).held.keys == (NEW,)


def test_a_key_that_was_dropped_is_not_taken_again_and_a_person_is_told(tmp_path: Path) -> None:
    # It stands in a unit or an environment still that somebody forgot.
    done = holding(tmp_path, NEW, dropped=(OLD.name,))
    for source in ("--key", "MESHQ_KEY", "/etc/meshq.toml"):
        found = take(tmp_path, key=OLD.text, key_from=source)
        assert found.held == done.held == keyfile.read(tmp_path)
        for said in (f"{source} gives {OLD.name}", f"Take the old one out of {source};", NEW.name):
            assert said in found.warning
        assert OLD.text not in found.warning
    # As it says, whoever wants it all the same deletes a line.
    line = f"dropped {OLD.name}"
    assert f"delete the line `{line}` in {tmp_path / 'key'}" in found.warning
    (tmp_path / "key").write_text((tmp_path / "key").read_text().replace(f"{line}\n", ""))
    assert take(tmp_path, key=OLD.text).held.keys == (OLD,)


def test_what_was_dropped_stays_so_when_another_key_is_given(tmp_path: Path) -> None:
    holding(tmp_path, NEW, dropped=(OLD.name,))
    assert take(tmp_path, key=OTHER.text).held == Held((OTHER,), (OLD.name,))
    assert take(tmp_path, key=OLD.text).held == Held((OTHER,), (OLD.name,))


@pytest.mark.parametrize(
    ("text", "why"),
    [("mq1-", "a part is missing"), ("mqc1-abcd", "this is a credential, .* a daemon needs the cluster's key")],
)
def test_what_is_no_key_changes_nothing_and_is_refused_with_where_it_was(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(BadKey, match=f"^MESHQ_KEY: .*{why}"):
        take(tmp_path, key=text, key_from="MESHQ_KEY")
    with pytest.raises(BadKey, match=r"^the configuration: "):
        take(tmp_path, key=text)
    assert list(tmp_path.iterdir()) == []


def test_without_a_key_nothing_is_secured_and_with_one_that_is_refused(tmp_path: Path) -> None:
    assert not take(tmp_path, insecure=True).secured
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="a key is given"):
        take(tmp_path, insecure=True, key=OLD.text)
    holding(tmp_path, OLD)
    with pytest.raises(ConfigError, match="key holds one: leave one of the two away"):
        take(tmp_path, insecure=True)


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        ("", 0o600, "holds no key"),
        ("dropped abcd\n", 0o600, "holds no key"),
        ("mq1-abcd\n", 0o600, "a part is missing; remove this file, and give the key anew with: meshq up --key KEY"),
        (OLD.text, 0o640, "others may read the key .mode 640.; take that away with: chmod 600"),
    ],
)
def test_a_file_that_is_not_right_is_named_with_what_to_do(tmp_path: Path, content: str, mode: int, why: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(StoreError, match=f"{path}: .*{why}"):
        take(tmp_path)


# -- changing it -----------------------------------------------------------------------------------------


def test_a_change_reaches_everybody_by_hellos_and_ends_when_one_ends_it(tmp_path: Path) -> None:
    a, b, c = (holding(tmp_path / name, OLD) for name in "abc")
    a.rotate(NEW)
    assert a.held.keys == (OLD, NEW), "the old key is shown until all know the new one"
    hear(b, a)
    hear(c, b)
    assert b.held == c.held == a.held
    dropped: list[str] = []
    c.on_drop = lambda: dropped.append("c")
    b.finish()
    hear(c, b)
    hear(c, b)
    assert (c.held, dropped) == (Held((NEW,), (OLD.name,)), ["c"])
    hear(a, c)
    assert a.held == b.held == c.held
    assert keyfile.read(tmp_path / "a") == a.held, "it is on disk"


def test_one_that_slept_through_the_end_learns_it_and_one_that_slept_through_all_does_not(tmp_path: Path) -> None:
    done = holding(tmp_path / "a", NEW, dropped=(OLD.name,))
    late, absent = holding(tmp_path / "b", OLD, NEW), holding(tmp_path / "c", OLD)
    hear(late, done)
    assert late.held.keys == (NEW,)
    hear(absent, done)
    assert absent.held.keys == (OLD,), "nobody offers a key that is not being changed to"


def test_who_slept_through_a_change_learns_what_was_dropped(tmp_path: Path) -> None:
    """It was given the new key by hand, and its unit gives the old one still."""
    done, late = holding(tmp_path / "a", NEW, dropped=(OLD.name,)), holding(tmp_path / "b", OLD)
    assert take(tmp_path / "b", key=NEW.text).held == Held((NEW,))
    late = take(tmp_path / "b")
    hear(late, done)
    assert take(tmp_path / "b", key=OLD.text).held == late.held == Held((NEW,), (OLD.name,))
    # Of its own key nobody can say so, and nothing gets into its file that is no name.
    late.learn("", (NEW.name, f"x\n{OLD.text}", "x" * 9, ""))
    assert keyfile.read(tmp_path / "b") == late.held == Held((NEW,), (OLD.name,))
    unsecured = Keyring(tmp_path, Held())
    unsecured.learn("", (OLD.name,))
    assert not (tmp_path / "key").exists()


def test_what_was_dropped_has_a_bound_and_comes_to_rest(tmp_path: Path) -> None:
    names = [f"{number:08}" for number in range(12)]
    one, other = (
        holding(tmp_path / "a", NEW, dropped=tuple(names[:5])),
        holding(tmp_path / "b", NEW, dropped=(names[5],)),
    )
    one.learn("", tuple(names[5:]))
    assert set(names[:5]) < set(one.held.dropped)
    assert len(one.held.dropped) == 8
    for _ in range(2):
        hear(one, other)
        hear(other, one)
    before = [(ring.held, (tmp_path / name / "key").stat().st_ino) for ring, name in ((one, "a"), (other, "b"))]
    hear(one, other)
    hear(other, one)
    after = [(ring.held, (tmp_path / name / "key").stat().st_ino) for ring, name in ((one, "a"), (other, "b"))]
    assert before == after, "nothing is written over and over"
    for number in range(9):
        one.rotate(Key(bytes([100 + number]) * 20))
        one.finish()
    assert len(one.held.dropped) == 8
    assert one.held == keyfile.read(tmp_path / "a")


def test_a_key_that_was_dropped_does_not_come_back(tmp_path: Path) -> None:
    done, late = holding(tmp_path / "a", NEW, dropped=(OLD.name,)), holding(tmp_path / "b", NEW, OLD)
    hear(done, late)
    assert done.held.keys == (NEW,)


def test_of_two_changes_at_the_same_time_one_stays(tmp_path: Path) -> None:
    a, b = holding(tmp_path / "a", OLD), holding(tmp_path / "b", OLD)
    a.rotate(NEW)
    b.rotate(OTHER)
    hear(a, b)
    hear(b, a)
    hear(a, b)
    assert a.held == b.held


def test_what_can_not_be_done_is_refused(tmp_path: Path) -> None:
    ring = holding(tmp_path, OLD)
    with pytest.raises(Conflict, match="begin with: meshq key rotate"):
        ring.finish()
    ring.rotate(NEW)
    with pytest.raises(Conflict, match="end that first, with: meshq key finish"):
        ring.rotate(OTHER)
    with pytest.raises(Conflict, match="without --insecure"):
        Keyring(tmp_path, Held()).rotate(NEW)
    ring.learn("mq9-of a later version", ())
    assert ring.held.keys == (OLD, NEW)


def test_the_announcement_changes_with_the_key_that_is_shown(tmp_path: Path) -> None:
    ring = holding(tmp_path, OLD)
    (before,) = ring.clusters("meshq")
    ring.rotate(NEW)
    assert ring.clusters("meshq")[0] == before, "those that know the old one only still find it"
    after = ring.clusters("meshq")[1]
    ring.finish()
    assert ring.clusters("meshq") == (after,)
    assert ring.clusters("lab") != (after,)
    assert OLD.text not in before

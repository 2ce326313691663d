"""Several leases together: who wins, who waits, and that never two lead, whatever happens to their messages."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshq.core.events import HandOver, Promise, Resign, RosterChanged, Tick
from tests.unit.lease_bench import COUNTED_S, TIMING, A, B, Bench, C, D, E, roster_of

LEASE_S, STEP_S = TIMING.lease_s, TIMING.stand_step_s


def test_the_lowest_id_leads_and_goes_on_leading() -> None:
    bench = Bench.of(C, A, B)
    bench.run(1.0)
    assert bench.leaders() == [A]
    bench.run(60.0)
    assert bench.led == [(A, 1)]


def test_the_next_lowest_leads_when_the_leader_dies() -> None:
    bench = Bench.of(A, B, C)
    bench.run(3.0)
    bench.crash(A)
    bench.run(LEASE_S + 3 * STEP_S)
    assert bench.leaders() == [B]
    # The dead one comes back, follows, and deposes nobody.
    bench.restart(A)
    bench.run(20.0)
    assert bench.led == [(A, 1), (B, 2)]
    assert bench.leases[A].known_leader(bench.now) == B


def test_without_a_majority_nobody_leads_and_no_epoch_rises() -> None:
    bench = Bench.of(A, B, C)
    bench.run(3.0)
    bench.crash(A)
    bench.crash(B)
    bench.run(60.0)
    assert bench.leaders() == []
    assert bench.disks[C].epoch == 1


def test_a_leader_that_is_cut_off_stops_before_another_begins() -> None:
    bench = Bench.of(A, B, C)
    bench.run(3.0)
    bench.cuts = {(A, B), (A, C), (B, A), (C, A)}
    assert bench.run_until(lambda: bench.leaders() == [], COUNTED_S + 0.02) > 1.0
    bench.run_until(lambda: bool(bench.leaders()), LEASE_S + 3 * STEP_S)
    assert bench.leaders() == [B]
    bench.cuts = set()
    bench.run(10.0)
    assert bench.led == [(A, 1), (B, 2)]


def test_one_that_nobody_can_answer_does_not_disturb_the_others() -> None:
    bench = Bench.of(A, B, C)
    bench.run(3.0)
    # C hears nothing, but what it says arrives.
    bench.cuts = {(A, C), (B, C)}
    bench.run(20.0)
    assert bench.led == [(A, 1)]


def test_a_lowest_id_with_a_full_disk_keeps_nobody_leaderless() -> None:
    bench = Bench.of(A, B, C)
    bench.full = {A}
    bench.run(15.0)
    assert bench.leaders() == [B]
    assert A not in bench.disks


def test_a_voter_whose_disk_refused_a_promise_follows_nobody_until_it_has_it() -> None:
    bench = Bench.of(A, B, C)
    bench.full = {B, C}
    bench.run(10.0)
    assert bench.leaders() == [], "nothing was promised on any other disk"
    bench.full = set()
    bench.run(15.0)
    assert len(bench.leaders()) == 1
    promised = {bench.disks[node] for node in (A, B, C)}
    assert len(promised) == 1


def test_a_replica_with_a_later_promise_is_a_follower_again_after_one_new_election() -> None:
    bench = Bench.of(A, B, C)
    bench.run(3.0)
    bench.crash(C)
    # As if it had stood in vain many times, long ago.
    bench.disks[C] = Promise(40, C, LEASE_S)
    bench.restart(C)
    bench.run(2 * LEASE_S)
    assert bench.led == [(A, 1), (A, 41)]
    assert bench.leases[C].known_leader(bench.now) == A


def test_a_candidate_with_an_old_roster_learns_the_new_one_and_asks_its_voters() -> None:
    members = roster_of(A, B, C, D, version=2)
    bench = Bench.of(A, B, C, D, members=(A, B, C))
    for node in (B, D):
        bench.step(node, RosterChanged(members))
    bench.crash(C)
    bench.run(3.0)
    assert bench.leaders() == [A]
    assert bench.led[0][1] == 1, "at its first attempt"
    assert bench.leases[A].roster == members


# -- any order at all ------------------------------------------------------------------------------------

ACTIONS = ("pass", "pass", "pass", "deliver", "deliver", "deliver", "drop", "double", "late", "crash", "restart", "cut",
           "heal", "hand over", "resign", "full")  # fmt: skip
acts = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7), st.integers(0, 7)), max_size=120)


class Chaos:
    """A bench on which chance decides what arrives, when and how often."""

    def __init__(self, count: int) -> None:
        self.nodes = (A, B, C, D, E)[:count]
        self.bench = Bench.of(*self.nodes)
        self.epochs: dict[int, str] = {}

    def act(self, action: str, one: int, other: int) -> None:
        """Does one thing, and looks."""
        node, peer = self.nodes[one % len(self.nodes)], self.nodes[other % len(self.nodes)]
        match action:
            case "pass":
                self.bench.run((0.01, 0.05, 0.2, 0.5, 0.8, 1.3, 1.8, 2.6)[one])
            case "drop" | "deliver" | "double" | "late" if self.bench.bag:
                self.on_the_way(action, one % len(self.bench.bag), (0.3, 0.9, 1.5, 2.4, 3.0, 4.0, 6.0, 9.0)[other])
            case "crash" | "restart" | "cut" | "heal" | "full":
                self.outside(action, node, peer)
            case "hand over" if node not in self.bench.down:
                self.bench.step(node, HandOver(peer))
            case "resign" if node not in self.bench.down:
                self.bench.step(node, Resign("chance"))
        self.look()

    def on_the_way(self, action: str, index: int, late_s: float) -> None:
        """Something befalls a message."""
        flights = self.bench.bag
        flight = flights[index]
        if action in ("drop", "deliver"):
            del flights[index]
        if action in ("deliver", "double"):
            self.bench.deliver(flight)
        elif action == "late":
            flight.due_s += late_s

    def outside(self, action: str, node: str, peer: str) -> None:
        """Something befalls a machine, its disk or the network."""
        bench = self.bench
        match action:
            case "crash":
                bench.crash(node)
            case "restart":
                bench.crash(node)
                bench.restart(node)
            case "cut":
                bench.cuts.add((node, peer))
            case "full":
                bench.full ^= {node}
            case "heal":
                bench.cuts.clear()
                bench.full.clear()

    def look(self) -> None:
        """Never two leaders, and never two of one epoch."""
        leaders = self.bench.leaders()
        assert len(leaders) <= 1, f"{leaders} at {self.bench.now}"
        for node, epoch in self.bench.led:
            assert self.epochs.setdefault(epoch, node) == node, f"epoch {epoch} was led twice"
        for node in self.nodes:
            if node not in self.bench.down and node not in self.bench.full:
                self.bench.step(node, Tick())


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(count=st.sampled_from((1, 2, 3, 3, 3, 4, 5)), story=acts)
def test_never_two_lead_and_in_the_end_one_does(count: int, story: list[tuple[str, int, int]]) -> None:
    chaos = Chaos(count)
    for action, one, other in story:
        chaos.act(action, one, other)
    bench = chaos.bench
    bench.cuts.clear()
    bench.full.clear()
    for node in chaos.nodes:
        if node in bench.down:
            bench.restart(node)
    for _ in range(60):
        bench.run(0.5)
        chaos.look()
    assert len(bench.leaders()) == 1
    leader = bench.leaders()[0]
    assert {lease.known_leader(bench.now) for lease in bench.leases.values()} == {leader}

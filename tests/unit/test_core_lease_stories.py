"""Several leases together: who wins, who waits, and that never two lead, whatever happens to their messages."""

from __future__ import annotations

import itertools
import random

import pytest

from meshq.core.events import Event, HandOver, Promise, RosterChanged
from tests.unit.lease_bench import COUNTED_S, TIMING, A, B, Bench, C, D, E, Flight, roster_of

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


# -- whatever happens ------------------------------------------------------------------------------------

SEEDS, TROUBLE_S, SETTLE_S = 160, 60.0, 30.0


class Storm(Bench):
    """A bench on which a seed decides what arrives, when and how often, and what else goes wrong.

    Clocks differ by less than the margin allows: the fastest runs 1.13 / 0.87 = 1.3 times as fast as the slowest.
    """

    rng: random.Random
    calm = False

    def post(self, sender: str, to: str, event: Event) -> None:
        if self.calm:
            super().post(sender, to, event)
            return
        if self.rng.random() < 0.05:
            return
        for _ in range(2 if self.rng.random() < 0.1 else 1):
            late = self.rng.random() < 0.1
            delay_s = self.rng.uniform(0.0, 3.0) if late else self.rng.uniform(0.0005, 0.02)
            self.bag.append(Flight(self.now + delay_s, to, event, sender, self.clock(sender)))

    def strike(self) -> None:
        """Something happens, to a leader more often than not."""
        leaders, nodes = self.leaders(), sorted(self.leases)
        node = leaders[0] if leaders and self.rng.random() < 0.5 else self.rng.choice(nodes)
        other = self.rng.choice(nodes)
        match self.rng.choice(
            ("crash", "start", "cut", "isolate", "heal", "heal", "pause", "wake", "give", "give", "disk")
        ):
            case "crash":
                self.crash(node)
                if self.rng.random() < 0.7:
                    self.restart(node)
            case "start" if self.down:
                self.restart(min(self.down))
            case "cut":
                self.cuts.add((node, other))
            case "isolate":
                self.cuts |= {pair for pair in itertools.permutations(nodes, 2) if node in pair}
            case "heal":
                self.cuts.clear()
            case "pause":
                self.paused.add(node)
            case "wake":
                self.paused.clear()
            case "give" if leaders and leaders[0] not in self.paused:
                self.step(leaders[0], HandOver(other))
            case "disk":
                self.full ^= {node}

    def settle(self) -> None:
        """All is well again."""
        self.calm = True
        self.cuts.clear()
        self.full.clear()
        self.paused.clear()
        for node in sorted(self.down):
            self.restart(node)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_never_two_lead_whatever_happens_and_in_the_end_one_does(count: int) -> None:
    for seed in range(SEEDS if count == 3 else SEEDS // 8):
        storm = Storm.of(*(A, B, C, D, E)[:count])
        storm.rng = random.Random(seed)
        storm.rates = {node: storm.rng.uniform(0.87, 1.13) for node in storm.leases}
        while storm.now < TROUBLE_S:
            storm.run(storm.rng.expovariate(1.5))
            storm.strike()
        storm.settle()
        storm.run(SETTLE_S)
        leaders = storm.leaders()
        assert len(leaders) == 1, f"seed {seed}"
        known = {lease.known_leader(storm.clock(node)) for node, lease in storm.leases.items()}
        assert known == {leaders[0]}, f"seed {seed}"

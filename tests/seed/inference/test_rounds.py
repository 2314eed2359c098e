"""Whose turn it is in lock-step, who is waited for, and when a round ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from seed.config.schema import InferenceConfig
from seed.contract import ActOutput
from seed.inference.batcher import GroupRows, InferenceBatch, WaitingStep
from seed.inference.forward import ForwardPass
from seed.inference.rounds import Rounds
from seed.inference.session_table import Session
from seed.store.layout import Column, StoreLayout
from seed.store.pages import PageLinks, PageTable
from seed.store.rows import PLAIN_PART, Unroll
from seed.store.unrolls import UnrollStore
from seed.store.weights import Weights
from seed.wire.arrays import Int64Array
from seed.wire.messages import EPISODE_DTYPE, Hello, StepArrays
from tests.seed.acting import Shown, acting

T, PATIENCE_S = 2, 60.0


class Fleet:
    """Servers A, B, ... of 2 environments a group, and the rounds that they take part in.

    Attributes:
        now_s: The time.
        dropped: env_ids that have left a round.
    """

    def __init__(self, *groups: int, first_envs: int = 0, max_batch: int = 100) -> None:
        """Servers with so many groups each, which have said HELLO."""
        self.now_s = 0.0
        self.dropped: list[int] = []
        config = InferenceConfig(max_batch=max_batch, round_wait_s=PATIENCE_S)
        self.rounds = Rounds(
            config, T, first_envs, drop=lambda env_ids: self.dropped.extend(env_ids.tolist())
        )
        self.servers: dict[str, Session] = {}
        for name, count in zip("ABCD", groups, strict=False):
            self.hello(name, count)

    def hello(self, name: str, groups: int) -> None:
        first = 10 * (ord(name) - ord("A"))
        env_ids = [np.array([first + 2 * group, first + 2 * group + 1]) for group in range(groups)]
        number = ord(name)
        hello = Hello(number, (2,) * groups, name)
        self.servers[name] = Session(b"", number, hello, env_ids, heard_s=0.0)
        self.rounds.open(self.servers[name])

    def send(self, *groups: str) -> list[bool]:
        """STEPs of groups, "A0" say, in this order; which of them replaced earlier ones."""
        return [self.rounds.add(self._step(*group)) for group in groups]

    def _step(self, name: str, group: str) -> WaitingStep:
        session = self.servers[name]
        env_ids = session.env_ids[int(group)]
        arrays = StepArrays(
            np.ones(2, np.uint64), np.zeros(2), np.zeros(2, np.float32), np.zeros(2, np.uint8),
            np.empty(0, EPISODE_DTYPE),
        )  # fmt: skip
        return WaitingStep(session, int(group), 0, GroupRows(env_ids, arrays), self.now_s)

    def leave(self, name: str) -> None:
        self.rounds.close(self.servers.pop(name))

    def turns(self) -> list[str]:
        """What is due: "A0 B0 act 1", say, or "hold" or "resume" with the row that it starts at."""
        found = []
        while (turn := self.rounds.next(self.now_s, lambda batch: True)) is not None:
            names = [f"{chr(step.session.number)}{step.group}" for step in turn.steps]
            kind = {(True, True): "act", (True, False): "hold", (False, True): "resume"}
            found.append(" ".join([*names, kind[turn.store, turn.act], str(turn.start)]))
            assert turn.batch.env_ids.tolist() == sorted(turn.batch.env_ids.tolist())
        if self.rounds.take_end():
            assert self.rounds.wait_s(self.now_s) == math.inf
            found.append("end")
        assert not self.rounds.take_end()
        return found

    def wait(self, seconds: float) -> None:
        """Time passes, in which the loop looks now and then."""
        for _ in range(int(seconds)):
            self.now_s += 1.0
            self.rounds.wait_s(self.now_s)

    def play(self, *events: str) -> list[str]:
        """Events in order, and all turns that follow from each.

        "A0 B0" are STEPs, "-A" a server that leaves, "+C1" one that says HELLO, with its number of
        groups, "later" the end of the patience and "go" the learner's leave to go on.
        """
        found = []
        for event in events:
            if event == "go":
                self.rounds.begin()
            elif event == "later":
                self.wait(PATIENCE_S)
            elif event[0] == "-":
                self.leave(event[1])
            elif event[0] == "+":
                self.hello(event[1], int(event[2]))
            else:
                self.send(*event.split())
            found += self.turns()
        return found


CASES: dict[str, tuple[tuple[int, ...], list[str], list[str]]] = {
    "one group, round after round": (
        (1,),
        ["A0", "A0", "A0", "go", "A0", "A0"],
        ["A0 act 0", "A0 act 1", "A0 hold 0", "end", "A0 resume 0", "A0 act 1", "A0 hold 0", "end"],
    ),
    "cohorts take turns, whatever comes first": (
        (2, 2),
        ["B1 A1 B0", "A0", "B1 A1", "A0 B0", "B0 A0", "B1 A1", "go"],
        ["A0 B0 act 0", "A1 B1 act 0", "A0 B0 act 1", "A1 B1 act 1", "A0 B0 hold 0",
         "A1 B1 hold 0", "end", "A0 B0 resume 0", "A1 B1 resume 0"],
    ),
    "a server without a second group": (
        (2, 1),
        ["A0 A1 B0", "A0 B0", "A1", "B0 A0", "A1"],
        ["A0 B0 act 0", "A1 act 0", "A0 B0 act 1", "A1 act 1", "A0 B0 hold 0", "A1 hold 0", "end"],
    ),
    "a server dies before its boundary": (
        (1, 1),
        ["A0 B0", "A0 B0", "A0", "-B", "go"],
        ["A0 B0 act 0", "A0 B0 act 1", "A0 hold 0", "end", "A0 resume 0"],
    ),
    "a server dies at its boundary, the others go on": (
        (2, 2),
        ["A0 B0 A1 B1", "A0 B0 A1 B1", "A0 B0", "-B", "A1", "go"],
        ["A0 B0 act 0", "A1 B1 act 0", "A0 B0 act 1", "A1 B1 act 1", "A0 B0 hold 0", "A1 hold 0",
         "end", "A0 resume 0", "A1 resume 0"],
    ),
    "a server dies after its boundary": (
        (1, 1),
        ["A0 B0", "A0 B0", "A0 B0", "-A", "go", "B0"],
        ["A0 B0 act 0", "A0 B0 act 1", "A0 B0 hold 0", "end", "B0 resume 0", "B0 act 1"],
    ),
    "all die, at the boundary and elsewhere, and others come": (
        (1,),
        ["A0", "-A", "+B1", "B0", "B0", "-B", "+C1", "C0", "go", "C0"],
        ["A0 act 0", "B0 act 1", "B0 hold 0", "end", "C0 act 0", "C0 act 1"],
    ),
    "a hanging group leaves, and joins anew": (
        (1, 1),
        ["A0 B0", "B0", "later", "A0 B0", "go", "A0 B0"],
        ["A0 B0 act 0", "B0 act 1", "A0 B0 hold 0", "end", "A0 B0 resume 0", "A0 B0 act 1"],
    ),
    "a whole cohort hangs": (
        (2,),
        ["A0 A1", "A1", "later", "A1"],
        ["A0 act 0", "A1 act 0", "A1 act 1", "A1 hold 0", "end"],
    ),
    "a HELLO in mid-round is waited for with its first STEP only": (
        (1,),
        ["A0", "+B1", "A0", "B0", "A0", "go", "B0", "A0"],
        ["A0 act 0", "A0 act 1", "A0 B0 hold 0", "end", "A0 B0 resume 0", "A0 B0 act 1"],
    ),
    "one comes while the learner is at work": (
        (1,),
        ["A0", "A0", "A0", "+B1", "B0", "go", "A0"],
        ["A0 act 0", "A0 act 1", "A0 hold 0", "end", "A0 resume 0", "A0 B0 act 1"],
    ),
    "a group that begins anew while it is held": (
        (1, 1),
        ["A0 B0", "A0 B0", "A0 B0", "B0", "go", "A0"],
        ["A0 B0 act 0", "A0 B0 act 1", "A0 B0 hold 0", "end", "A0 resume 0", "A0 B0 act 1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_turns(case: str) -> None:
    groups, events, turns = CASES[case]
    assert Fleet(*groups, first_envs=2 * sum(groups)).play(*events) == turns


def test_the_first_round_waits_for_its_environments_and_no_longer_than_patience(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = Fleet(1, 1, 1, first_envs=6)
    assert fleet.rounds.wait_s(0.0) == math.inf
    assert fleet.play("C0", "A0", "B0") == ["A0 B0 C0 act 0"]
    fleet = Fleet(1, 1, 1, first_envs=6)
    assert fleet.play("C0") == []
    fleet.wait(50)
    assert fleet.play("A0") == []
    fleet.wait(10)
    # Who comes back adds nothing.
    fleet.leave("C")
    fleet.hello("C", 1)
    assert fleet.play("C0") == []
    assert fleet.rounds.wait_s(60.0) == 50.0
    assert fleet.play("later") == ["A0 C0 act 0"]
    assert "begins with 4 of 6 environments" in caplog.text


def test_who_is_late_is_dropped_and_named(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(1, 2)
    assert fleet.play("A0 B0 B1", "A0 B1") == ["A0 B0 act 0", "B1 act 0"]
    fleet.wait(10)
    assert (fleet.rounds.wait_s(10.0), fleet.dropped) == (50.0, [])
    # While the process stands still nobody is late.
    fleet.now_s += 1_000
    assert fleet.play("A0") == []
    assert fleet.rounds.wait_s(fleet.now_s) == 49.0
    assert fleet.play("later") == ["A0 act 1", "B1 act 1"]
    assert fleet.dropped == [10, 11]
    assert "2 environments of B left the round" in caplog.text


def test_who_hangs_with_all_its_groups_is_waited_for_once() -> None:
    fleet = Fleet(3, 3, first_envs=12)
    fleet.play("A0 A1 A2 B0 B1 B2", "A0 A1 A2")
    assert fleet.play("later") == ["A0 act 1", "A1 act 1", "A2 act 1"]


def test_a_cohort_larger_than_a_batch_acts_in_parts_that_are_always_the_same() -> None:
    for order in ("A0 B0 C0", "C0 B0 A0"):
        fleet = Fleet(1, 1, 1, first_envs=6, max_batch=5)
        assert fleet.play(order) == ["A0 B0 act 0", "C0 act 0"]
    # One that leaves between the parts is in none of them.
    fleet = Fleet(1, 1, 1, first_envs=6, max_batch=5)
    fleet.send("A0", "B0", "C0")
    assert fleet.rounds.next(0.0, lambda batch: True) is not None
    fleet.leave("C")
    assert fleet.play("A0 B0") == ["A0 B0 act 1"]


def test_a_replaced_step_is_forgotten_wherever_it_is() -> None:
    fleet = Fleet(1, 1, max_batch=3)
    assert fleet.send("A0", "A0", "B0") == [False, True, False]
    # A0 is run, and B0 is about to be.
    assert fleet.rounds.next(0.0, lambda batch: True) is not None
    assert fleet.send("B0") == [True]
    assert fleet.play("A0") == ["A0 act 1", "B0 act 1"]
    assert fleet.play("A0 B0") == ["A0 hold 0", "B0 hold 0", "end"]
    assert fleet.send("A0", "A0") == [True, True]
    assert fleet.play("go") == ["B0 resume 0"]


def test_without_room_rows_stay_and_are_due() -> None:
    fleet = Fleet(1)
    fleet.send("A0")
    assert fleet.rounds.next(0.0, lambda batch: False) is None
    assert (fleet.rounds.wait_s(0.0), fleet.rounds.is_full) == (0.0, True)
    assert fleet.turns() == ["A0 act 0"]


# --- with the store ------------------------------------------------------------------------------

ENVS, GROUP = 12, 2
POISON = 77


def count(shown: Shown) -> ActOutput:
    """The state counts a history's rows; so do the action and the behaviour."""
    rows = shown.agent_state.sum(dim=1)  # [B] float32
    return ActOutput(rows.long(), {"count": rows}, shown.agent_state + 1)


class Counters:
    """Three servers of two groups that come, go, hang and begin anew, in lock-step.

    An observation is [env_id, history, rows of that history before], so that an unroll shows where
    each of its rows is from.
    """

    def __init__(self, rng: np.random.Generator, burn_in: int, evaluation_share: float) -> None:
        self.rng = rng
        layout = StoreLayout(
            unroll_length=3, num_pages=3 * ENVS, max_envs=ENVS, frame_stack=1, state_size=1,
            observations={PLAIN_PART: Column((3,), torch.int64)}, action=Column((), torch.int64),
            behaviour={"count": Column((), torch.float32)}, burn_in=burn_in,
            evaluation_share=evaluation_share,
        )  # fmt: skip
        self.store = UnrollStore(layout, torch.device("cpu"))
        self.forward = ForwardPass(acting(count), None, nn.Identity(), self.store, 5)
        config = InferenceConfig(max_batch=5, round_wait_s=1.0)
        self.rounds = Rounds(config, 3, ENVS, drop=self.drop)
        self.version = 0
        self.now_s = 0.0
        self.histories = 0
        # Of each environment. [ENVS, 3] int64 and [ENVS] int64
        self.at = np.zeros((ENVS, 3), np.int64)
        self.at[:, 0] = np.arange(ENVS)
        self.sessions: list[Session | None] = [None] * 3
        self.pages: list[PageLinks] = []

    def drop(self, env_ids: Int64Array) -> None:
        self.store.drop(env_ids)
        self.begin(env_ids)

    def begin(self, env_ids: Int64Array) -> None:
        """New histories, from the next row on."""
        for env_id in env_ids:
            self.histories += 1
            self.at[env_id, 1:] = self.histories, 0

    def come(self, server: int) -> None:
        env_ids = np.arange(4 * server, 4 * server + 4)
        hello = Hello(server + 1, (GROUP, GROUP), "")
        session = Session(b"", int(self.rng.integers(1, 10**9)), hello, np.split(env_ids, 2), 0.0)
        self.sessions[server] = session
        self.rounds.open(session)
        self.begin(env_ids)
        for group in (0, 1):
            self.send(session, group)

    def go(self, server: int) -> None:
        session = self.sessions[server]
        assert session is not None
        self.sessions[server] = None
        self.rounds.close(session)
        self.store.drop(session.all_env_ids)

    def send(self, session: Session, group: int) -> None:
        env_ids = session.env_ids[group]
        if self.rng.random() < 0.03:
            self.begin(env_ids[:1])
        arrays = StepArrays(
            self.at[env_ids, 1].astype(np.uint64), self.at[env_ids], np.zeros(GROUP, np.float32),
            np.zeros(GROUP, np.uint8), np.empty(0, EPISODE_DTYPE),
        )  # fmt: skip
        step = WaitingStep(session, group, 0, GroupRows(env_ids, arrays), self.now_s)
        if self.rounds.add(step):
            self.drop(env_ids)

    def play_round(self) -> Unroll | None:
        """What a round made whole, whatever happens in it; None where that is nothing."""
        answers: list[tuple[Session, int]] = []
        while not self.rounds.take_end():
            turn = self.rounds.next(self.now_s, self.has_room)
            if turn is not None:
                if turn.act and turn.store:
                    self.pages += self.forward.run(turn.batch, turn.start)[1]
                elif turn.act:
                    self.forward.act(turn.batch)
                else:
                    self.pages += self.forward.store(turn.batch, turn.start)
                if turn.store:
                    self.at[turn.batch.env_ids, 2] += 1
                if turn.act:
                    answers += [(step.session, step.group) for step in turn.steps]
            self.happen(answers)
        pages, self.pages = self.pages, []
        unroll = self.store.gather(pages) if pages else None
        self.store.release(pages)
        return unroll

    def happen(self, answers: list[tuple[Session, int]]) -> None:
        """An answer, mostly; or a server comes, or goes, or time passes for who hangs."""
        server = int(self.rng.integers(3))
        if self.rng.random() < 0.02 and self.sessions[server] is not None:
            self.go(server)
        elif self.sessions[server] is None and self.rng.random() < 0.3:
            self.come(server)
        answers[:] = [answer for answer in answers if answer[0] in self.sessions]
        if answers and self.rng.random() < 0.9:
            self.send(*answers.pop(int(self.rng.integers(len(answers)))))
        elif self.rng.random() < 0.1:
            self.now_s += 0.7

    def has_room(self, batch: InferenceBatch) -> bool:
        """There always is; what nobody uses at present is made unusable."""
        assert self.store.has_room(batch.env_ids, batch.run_ids)
        for page in self.store._table._free:
            for name, column in self.store.columns.items():
                length = 1 if name == "agent_states" else 3
                column[page * length : (page + 1) * length] = POISON
        return True

    def learn(self) -> None:
        """New weights, and the next round."""
        self.version += 1
        self.forward.load_weights(Weights(self.version, []))
        self.rounds.begin()


@pytest.mark.parametrize(("burn_in", "evaluation_share"), [(0, 0.0), (2, 0.25)])
@pytest.mark.parametrize("seed", range(4))
def test_unrolls_of_rounds_follow_on_each_other(
    seed: int, burn_in: int, evaluation_share: float
) -> None:
    counters = Counters(np.random.default_rng(seed), burn_in, evaluation_share)
    last: dict[int, tuple[int, int]] = {}
    seen = followed = 0
    for _ in range(60):
        unroll = counters.play_round()
        for b in range(len(unroll.importance) if unroll is not None else 0):
            assert unroll is not None
            observations = unroll.rows.observations[PLAIN_PART][burn_in:, b]  # [T + 1, 3] int64
            env_id, history, row = observations[0].tolist()
            assert not counters.store.evaluation[env_id]
            assert observations[:, :2].tolist() == [[env_id, history]] * 4
            assert observations[:, 2].tolist() == [row, row + 1, row + 2, row + 3]
            # All was acted by the newest weights, and at row T nothing was done yet.
            counts = [row, row + 1, row + 2, 0]
            assert unroll.actions[burn_in:, b].tolist() == counts
            assert unroll.behaviour["count"][burn_in:, b].tolist() == counts
            versions = [counters.version] * 3 + [0]
            assert unroll.policy_versions[burn_in:, b].tolist() == versions
            # Before a history's first row there are zeros.
            before = unroll.rows.observations[PLAIN_PART][:burn_in, b, 2].tolist()
            assert before == ([row - 2, row - 1][:burn_in] if row else [0, 0][:burn_in])
            assert unroll.agent_state[b].item() == max(0, row - burn_in)
            if env_id in last and last[env_id][0] == history:
                assert last[env_id][1] + 3 == row
                followed += 1
            last[env_id] = history, row
            seen += 1
        counters.learn()
    assert seen > 100
    assert followed > 50


@pytest.mark.parametrize(("pages_each", "is_enough"), [(3, False), (4, True)])
def test_who_comes_back_at_the_boundary_in_other_groups_needs_a_fourth_page(
    pages_each: int, is_enough: bool
) -> None:
    table = PageTable(4 * pages_each, T, np.zeros(4, np.bool_))
    rounds = Rounds(InferenceConfig(), T, 4, drop=table.drop)
    complete: list[PageLinks] = []

    def come(number: int, *env_ids: list[int]) -> Session:
        groups = [np.array(group) for group in env_ids]
        hello = Hello(number, tuple(map(len, groups)), "")
        session = Session(b"", number, hello, groups, 0.0)
        rounds.open(session)
        return session

    def send(*groups: tuple[Session, int]) -> int:
        """STEPs of these groups, and how many rows were run for them."""
        rows = 0
        for session, group in groups:
            n = len(session.env_ids[group])
            arrays = StepArrays(
                np.full(n, session.number, np.uint64), np.zeros(n), np.zeros(n, np.float32),
                np.zeros(n, np.uint8), np.empty(0, EPISODE_DTYPE),
            )  # fmt: skip
            rounds.add(WaitingStep(session, group, 0, GroupRows(session.env_ids[group], arrays), 0))
        while (turn := rounds.next(0.0, has_room)) is not None:
            batch = turn.batch
            if turn.store:
                first = np.zeros(len(batch.env_ids), np.bool_)
                slots = table.advance(batch.env_ids, batch.run_ids, first, turn.start)
                complete.extend(slots.complete)
            rows += len(batch.env_ids)
        return rows

    def has_room(batch: InferenceBatch) -> bool:
        return table.pages_needed(batch.env_ids, batch.run_ids) <= table.num_free

    one, two = come(1, [0, 1]), come(2, [2], [3])
    everybody = ((one, 0), (two, 0), (two, 1))
    send(*everybody)
    for _ in range(2):
        for _ in range(T):
            assert send(*everybody) == 4
        assert rounds.take_end()
        table.consume(complete)
        complete.clear()
        rounds.begin()
        assert send() == 4
    for _ in range(T - 1):
        send(*everybody)
    # The pages of this round wait for its end, and one comes back with two groups.
    send((one, 0), (two, 0))
    table.drop(one.all_env_ids)
    rounds.close(one)
    again = come(3, [0], [1])
    assert send((again, 0), (again, 1), (two, 1)) == (2 if is_enough else 0)
    assert rounds.take_end() == is_enough

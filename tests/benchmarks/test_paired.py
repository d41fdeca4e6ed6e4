"""The harness on a clock that the test moves: no figure here depends on the machine."""

import numpy as np
import pytest

from paired import alternate


class Clock:
    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def job(self, name, seconds, compile_seconds=0.0):
        def run(i):
            self.calls.append((name, i))
            self.now += seconds * (1 + 0.1 * i) + (compile_seconds if i == 0 else 0.0)
            return {"ess": 100.0}

        return run


def test_drift_cancels_within_pairs_and_compilation_is_reported_apart(capsys):
    clock = Clock()
    figures = alternate(
        clock.job("ours", 1.0, 5.0), clock.job("peer", 2.0, 9.0), label="job", clock=clock
    )
    assert figures.ratio == pytest.approx(2.0)
    assert figures.lower == pytest.approx(2.0)
    # The machine of this test becomes slower: the runs of seven pairs take 1.4 times the first.
    assert figures.compile_ours == pytest.approx(5.0 + 1.0 - 1.4)
    assert figures.compile_peer == pytest.approx(9.0 + 2.0 - 2.8)
    assert "ratio 2.000, at least 2.000 (95 %, 7 pairs)" in capsys.readouterr().out


def test_the_order_changes_from_pair_to_pair():
    clock = Clock()
    alternate(clock.job("a", 1.0), clock.job("b", 1.0), pairs=3, clock=clock)
    order = ["a0", "b0", "a1", "b1", "b2", "a2", "a3", "b3"]
    assert [f"{name}{i}" for name, i in clock.calls] == order


def test_work_turns_seconds_into_a_rate():
    clock = Clock()
    figures = alternate(
        clock.job("a", 1.0),
        clock.job("b", 1.0),
        pairs=2,
        work=lambda result: result["ess"],
        warm=False,
        clock=clock,
    )
    np.testing.assert_allclose(figures.ours, [100 / 1.1, 100 / 1.2])
    assert figures.compile_ours is None
    assert "compilation" not in str(figures)


def test_the_bound_has_its_coverage():
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(400):
        clock = Clock()

        def noisy(i, clock=clock):
            clock.now += float(np.exp(0.2 * rng.standard_normal()))

        below += alternate(noisy, noisy, warm=False, clock=clock).lower < 1.0
    # 95 % of 400, and four standard errors.
    assert abs(below - 380) < 4 * np.sqrt(400 * 0.95 * 0.05)


def test_one_pair_is_refused():
    with pytest.raises(ValueError, match="at least two pairs; got 1"):
        alternate(lambda i: None, lambda i: None, pairs=1)

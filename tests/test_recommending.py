"""The benchmark of rules that recommend: the curves and how they are packed, the simulated searches, the rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import curve_sets, recommend
from benchmarks.courses import BASELINES, Seen, Task, quick, task_of
from benchmarks.curve_sets import (
    CHOOSING,
    EPOCHS,
    PARTS,
    POOL,
    REPORTING,
    SETS,
    Job,
    declared,
    done,
    from_bytes,
    pack,
    read_runs,
    to_bytes,
    validation_images,
)
from benchmarks.process import Posterior, posterior
from benchmarks.rules import RULES, at_the_end, expectation, known, log_loss_of, ranks, recommended, regret
from benchmarks.search_quality import OwnSearch
from benchmarks.stock_search import Recorded

CLASSES = SETS["vat"].classes


def test_sets_take_turns_and_every_fourth_configuration_of_a_block_has_a_second_seed() -> None:
    names = tuple(SETS)
    jobs = declared(names, 100)
    for end in range(len(jobs)):
        counts = [sum(job.set == name for job in jobs[:end]) for name in names]
        assert max(counts) - min(counts) <= 1
    assert len(jobs) == len(set(jobs)) == len(SETS) * (100 + 25)
    assert {job.number for job in jobs if job.seed == 1} == set(range(0, 100, 4))
    first = len(SETS) * 80
    assert [job.seed for job in jobs[:first]] == [0] * first and jobs[first].seed == 1
    assert sorted(CHOOSING + REPORTING) == sorted(SETS)


def test_losses_are_kept_to_a_few_percent() -> None:
    losses = np.array([0, 1e-3, 0.01, 0.5, 2.3, 30, 1e9])
    found = from_bytes(to_bytes(losses))
    assert found[1:-1] == pytest.approx(losses[1:-1], rel=0.05, abs=4e-4)
    assert found[0] == 0 and found[-1] == pytest.approx(100, rel=0.01)


def test_validation_images_are_balanced_and_differ_by_part() -> None:
    classes = np.repeat(np.arange(CLASSES), POOL // CLASSES)
    one, other = (validation_images("vat", part, classes) for part in (0, 1))
    assert np.bincount(classes[one]).tolist() == [5] * CLASSES
    assert len(set(one)) == SETS["vat"].valid and set(one) != set(other)
    assert (one == validation_images("vat", 0, classes)).all()


@pytest.fixture
def curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve recorded runs of VAT, made up: the error falls from 90 % to one that follows from the learning rate; the
    last diverges after three epochs. Returns the folder of the packed file."""
    monkeypatch.setattr(curve_sets, "RAW", tmp_path / "raw")
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(CLASSES, dtype=np.uint8), POOL // CLASSES)
    for number in range(12):
        lr = curve_sets.parameters_of("vat", number)["lr"]
        end = 0.1 + 0.1 * abs(np.log10(lr / 0.05))
        share = np.linspace(0.9, end, EPOCHS if number < 11 else 3)
        wrong = rng.random((len(share), POOL)) < share[:, None]
        path = Job("vat", number, 0).path
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            classes=classes,
            wrong=np.packbits(wrong, axis=1),
            loss=to_bytes(np.where(wrong, 2.0, 0.1)),
            seconds=1.0,
        )
    assert pack("vat", tmp_path) == 12
    return tmp_path


@pytest.fixture
def task(curves: Path) -> Task:
    """These with their first validation set."""
    return task_of("vat", 0, read_runs("vat", curves))


def test_packed_curves_say_what_the_images_said(curves: Path, task: Task) -> None:
    with np.load(Job("vat", 4, 0).path) as kept:
        wrong = np.unpackbits(kept["wrong"], axis=1, count=POOL)
        places = validation_images("vat", 0, kept["classes"])
    others = np.setdiff1d(np.arange(POOL), places)
    assert task.val_error[4] == pytest.approx(100 * wrong[:, places].mean(axis=1))
    assert task.held_error[4] == pytest.approx(100 * wrong[:, others].mean(axis=1))
    loss = np.where(wrong[:, places], 2.0, 0.1).mean(axis=1)
    assert task.val_loss[4] == pytest.approx(loss, rel=0.03)
    assert np.isnan(task.held_error[11, 3:]).all() and task.final[11] == 100
    parts = read_runs("vat", curves).val_wrong[4, -1]
    assert len(parts) == PARTS and len(set(parts)) > 5


def test_runs_are_added_to_those_that_are_packed_already(curves: Path) -> None:
    before = read_runs("vat", curves)
    for path in (curve_sets.RAW / "vat").glob("*.npz"):
        path.rename(path.with_name(path.name.replace("-0", "-1"))) if path.name < "0002" else path.unlink()
    assert done("vat", curves) == {Job("vat", n, 0) for n in range(12)} | {Job("vat", n, 1) for n in (0, 1)}
    assert pack("vat", curves) == 14
    after = read_runs("vat", curves)
    assert after.number.tolist() == [0, 0, 1, 1, *range(2, 12)]
    assert after.val_loss[after.seed == 0] == pytest.approx(before.val_loss, nan_ok=True)


def test_the_search_in_memory_asks_as_the_real_one_does(task: Task) -> None:
    quickly, real = quick(task.recorded, 3), OwnSearch(task.recorded, 3)
    try:
        for mark in (100, 190):
            quickly.run(mark)
            real.run(mark)
            pairs = [[(r.state, r.epoch, r.params) for r in s.records()] for s in (quickly, real)]
            assert pairs[0] == pairs[1] and len(pairs[0]) > 15
    finally:
        real.close()


def test_a_curve_that_two_trials_share_counts_once_as_far_as_the_longer_came(task: Task) -> None:
    seen = Seen((2, 2, 5, 7), (3, EPOCHS, 2, 0), ("stopped_early", "completed", "running", "running"))
    found = known(task, seen)
    assert found is not None
    assert found.curve.tolist() == [2, 5] and found.epoch.tolist() == [EPOCHS, 2]
    assert found.candidates.tolist() == [0]
    assert known(task, Seen((1,), (0,), ("running",))) is None


def test_before_a_whole_run_the_farthest_after_their_warm_up_are_candidates(task: Task) -> None:
    warmup = task.warmup[[0, 1]]
    seen = Seen((0, 1), tuple(int(w) + 2 for w in warmup), ("running", "stopped_early"))
    found = known(task, seen)
    assert found is not None and found.candidates.tolist() == [0, 1]


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_recommends_the_better_of_two_whole_runs_that_are_far_apart(rule: str, task: Task) -> None:
    order = np.argsort(task.val_loss[:11, -1] + task.val_error[:11, -1] / 100)
    good, bad = int(order[0]), int(order[10])
    seen = Seen((bad, good), (EPOCHS, EPOCHS), ("completed", "completed"))
    assert recommended(RULES[rule], task, seen) == good
    assert regret(RULES[rule], task, seen) == pytest.approx(task.final[good] - task.final.min())


def test_a_stopped_trial_is_recommended_by_rules_that_consider_it_alone(task: Task) -> None:
    """Nine whole runs, and one that after 11 of 12 epochs is better by far."""
    order = [int(c) for c in np.argsort(task.val_error[:11, 10] + 100 * task.val_loss[:11, 10])]
    task.val_error[order[0]], task.val_loss[order[0]] = 0.0, 0.001
    seen = Seen(tuple(order[:10]), (EPOCHS - 1,) + (EPOCHS,) * 9, ("stopped_early",) + ("completed",) * 9)
    chosen = {rule: recommended(RULES[rule], task, seen) for rule in RULES}
    assert chosen["process: both, any trial"] == order[0]
    assert chosen["log odds + log loss, last 3, from half on"] == order[0]
    assert all(
        c in order[1:10] for rule, c in chosen.items() if "any trial" not in rule and "half" not in rule
    )


def test_a_stopped_trial_is_moved_by_what_whole_runs_changed_from_there(task: Task) -> None:
    seen = Seen((0, 1, 2), (EPOCHS, EPOCHS, 5), ("completed", "completed", "stopped_early"))
    k = known(task, seen)
    assert k is not None
    loss = np.log(task.val_loss + 1e-6)
    change = (loss[0, -1] - loss[0, 4] + loss[1, -1] - loss[1, 4]) / 2
    assert at_the_end(k, log_loss_of, 1) == pytest.approx([loss[0, -1], loss[1, -1], loss[2, 4] + change])


def test_the_expected_error_is_drawn_to_the_mean_of_the_candidates_and_its_interval_holds_it(
    task: Task,
) -> None:
    whole = Seen(tuple(range(11)), (EPOCHS,) * 11, ("completed",) * 11)
    k = known(task, whole)
    assert k is not None
    best = int(task.val_error[:11, -1].argmin())
    found = expectation(k, best, 0.5)
    assert found.measured == task.val_error[best, -1] < found.expected
    assert found.low < found.expected < found.high
    alone = known(task, Seen((best,), (EPOCHS,), ("completed",)))
    assert alone is not None
    single = expectation(alone, best, 0.5)
    wrong = single.measured / 2 + 0.5  # of 50 images, half an image added
    assert single.expected == pytest.approx(100 * wrong / 51)
    assert single.high - single.low > 10


def test_ranks_are_places_in_order_and_ties_share_theirs() -> None:
    values = np.array([[5.0], [1.0], [5.0], [9.0]])
    assert ranks(values)[:, 0] == pytest.approx([0.5, 0.125, 0.5, 0.875])


def slow_posterior(
    x: np.ndarray, y: np.ndarray, at: np.ndarray, lengths: np.ndarray, ratio: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and log likelihood of one draw, by inverses and loops."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        r = np.sqrt(5 * (((a - b) / lengths) ** 2).sum())
        return float((1 + r + r * r / 3) * np.exp(-r))

    n = len(x)
    k = np.array([[kernel(a, b) for b in x] for a in x]) + ratio * np.eye(n)
    inverse, one = np.linalg.inv(k), np.ones(n)
    cross = np.array([[kernel(a, b) for b in x] for a in at])
    own = np.array([[kernel(a, b) for b in at] for a in at])
    precision = one @ inverse @ one
    mean = one @ inverse @ y / precision
    scale = (y - mean) @ inverse @ (y - mean) / (n - 1)
    rest = 1 - cross @ inverse @ one
    covariance = scale * (own - cross @ inverse @ cross.T + np.outer(rest, rest) / precision)
    likelihood = -0.5 * (np.linalg.slogdet(k)[1] + np.log(precision) + (n - 1) * np.log(scale))
    return mean + cross @ inverse @ (y - mean), covariance, likelihood


def test_the_process_is_the_mixture_that_inverses_and_loops_give() -> None:
    rng = np.random.default_rng(1)
    x, at = rng.random((9, 2)), rng.random((3, 2))
    y = np.sin(4 * x[:, 0]) + 0.2 * rng.standard_normal(9)
    found = posterior(x, y, at, draws=5)
    drawn = np.random.default_rng(0)
    lengths = 0.8 * np.exp(0.8 * drawn.standard_normal((5, 2)))
    ratios = 0.4 * np.exp(1.2 * drawn.standard_normal(5))
    slow = [slow_posterior(x, y, at, *one) for one in zip(lengths, ratios, strict=True)]
    weights = np.exp([s[2] for s in slow])
    weights /= weights.sum()
    assert found.weights == pytest.approx(weights)
    assert found.means == pytest.approx(np.array([s[0] for s in slow]))
    assert found.covariances == pytest.approx(np.array([s[1] for s in slow]), abs=1e-7)
    assert found.mean == pytest.approx(sum(w * s[0] for w, s in zip(weights, slow, strict=True)))


def test_a_mixture_s_variance_has_the_spread_of_its_means() -> None:
    means, covariances = np.array([[0.0], [2.0]]), np.array([[[1.0]], [[3.0]]])
    mixture = Posterior(np.array([0.5, 0.5]), means, covariances, freedom=5)
    assert mixture.mean == pytest.approx([1.0])
    assert mixture.deviation**2 == pytest.approx([2.0 + 1.0])


def test_a_linear_mean_carries_a_trend_beyond_the_observations() -> None:
    x = np.linspace(0, 1, 8)[:, None]
    h = np.column_stack([np.ones(8), x])
    found = posterior(x, 3 * x[:, 0] - 1, np.array([[2.0]]), basis=(h, np.array([[1.0, 2.0]])))
    assert found.mean == pytest.approx([5.0], abs=1e-6)


def test_curves_of_a_recorded_set_answer_in_the_unit_cube(task: Task) -> None:
    assert isinstance(task.recorded, Recorded)
    assert task.x.shape == (12, 5) and task.x.min() >= 0 and task.x.max() <= 1


def test_the_command_s_table_has_every_search_and_rule_with_the_same_numbers_from_kept_searches(
    curves: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "process: both, any trial"
    words = ["--sets", "vat", "--repetitions", "2", "--trainings", "2", "--rules", rule, "--shared", "0.8"]
    words += ["--curves", str(curves), "--keep", str(curves / "kept"), "--plot", str(curves), "--choose"]
    recommend.main(words)
    found = capsys.readouterr().out
    regrets, intervals = found.split("| vat: search")[1:]
    assert found.splitlines()[-1].endswith(rule)
    assert all(f"| {search} | {rule} | " in part for search in BASELINES for part in (regrets, intervals))
    assert (curves / "search-quality-2.png").read_bytes().startswith(b"\x89PNG")
    kept = sorted((curves / "kept").glob("vat-12-2-*.jsonl"))
    assert len(kept) == len(BASELINES) and all(len(k.read_text().splitlines()) == 2 for k in kept)
    recommend.main(words)
    assert capsys.readouterr().out == found
    assert all(len(k.read_text().splitlines()) == 2 for k in kept)


def test_regret_and_coverage_by_hand(task: Task) -> None:
    searches = [[Seen((c,), (EPOCHS,), ("completed",))] for c in (0, 1)]
    rule = "lowest loss"
    best = task.final.min()
    tasks = [task] * PARTS
    assert recommend.regrets(tasks, searches, rule)[:, 0] == pytest.approx(task.final[[0, 1]] - best)
    assert recommend.used(tasks, searches) == pytest.approx([1 / 12])
    held, measured, _ = recommend.covered(tasks, searches, rule, 1.0)[:, 0]
    assert held == 1.0  # of 50 images: some ten points to either side
    assert measured == pytest.approx(np.mean(task.final[[0, 1]] - task.val_error[[0, 1], -1]))

"""What is true of every metric, whatever the data."""

import copy
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchfit import metrics

cases = runpy.run_path(str(Path(__file__).parents[1] / "metrics" / "members.py"))
MEMBERS, ROWS = [*cases["MEMBERS"], *cases["EXTENDED"]], cases["ROWS"]
every_member = pytest.mark.parametrize("member", MEMBERS, ids=str)
seeds = st.integers(0, 2**16)
few = settings(max_examples=3, deadline=None)


def build(member):
    return getattr(metrics, member.name)(**member.arguments)


def after(metric, *batches):
    for batch in batches:
        metric.update_state(*batch)
    return metric.result()


def same(first, second):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)


@every_member
@few
@given(seed=seeds, cut=st.integers(1, ROWS - 1))
def test_how_rows_are_batched_does_not_matter(member, seed, cut):
    y_true, y_pred = member.data(seed)
    parts = ((y_true[:cut], y_pred[:cut]), (y_true[cut:], y_pred[cut:]))
    same(after(build(member), *parts), after(build(member), (y_true, y_pred)))


@every_member
@few
@given(seed=seeds)
def test_a_weight_of_two_is_the_sample_twice(member, seed):
    if member.arguments.get("num_regressors"):
        pytest.skip("the adjusted score counts samples, not weights")
    y_true, y_pred = member.data(seed)
    weights = np.random.default_rng(seed).integers(1, 3, ROWS)
    repeated = np.repeat(np.arange(ROWS), weights)
    once = build(member)
    ignored = member.arguments.get("ignore_class") if member.name.startswith("Sparse") else None
    unit = None if ignored is None else np.ones(len(repeated))
    same(after(once, (y_true, y_pred, weights)), after(build(member), (y_true[repeated], y_pred[repeated], unit)))


@every_member
@pytest.mark.parametrize("weighted", [False, True])
@few
@given(seed=seeds)
def test_a_mask_leaves_rows_out_whatever_they_hold(member, weighted, seed):
    y_true, y_pred = member.data(seed)
    kept = np.random.default_rng(seed).random(ROWS) < 0.6
    kept[0] = True
    weights = np.arange(1, ROWS + 1) if weighted else None
    expected = after(build(member), (y_true[kept], y_pred[kept], None if weights is None else weights[kept]))
    predictions, labels = torch.from_numpy(y_pred.copy()), torch.from_numpy(y_true.copy())
    if predictions.is_floating_point():
        predictions[~torch.from_numpy(kept)] = float("nan")
    if member.name.startswith("Sparse"):
        labels[~torch.from_numpy(kept)] = -1
    predictions._keras_mask = torch.from_numpy(kept)  # type: ignore[attr-defined]
    same(after(build(member), (labels, predictions, weights)), expected)


@every_member
@few
@given(seed=seeds)
def test_the_order_of_rows_does_not_matter(member, seed):
    y_true, y_pred = member.data(seed)
    order = np.random.default_rng(seed).permutation(ROWS)
    same(after(build(member), (y_true[order], y_pred[order])), after(build(member), (y_true, y_pred)))


@every_member
def test_after_reset_it_is_as_new(member):
    metric = build(member)
    after(metric, member.data(0))
    metric.reset_state()
    same(after(metric, member.data(1)), after(build(member), member.data(1)))


@every_member
def test_state_dict_makes_the_trip(member):
    metric, fresh = build(member), build(member)
    expected = after(metric, member.data(0)).clone()
    fresh.load_state_dict(metric.state_dict())
    same(fresh.result(), expected)


@every_member
def test_config_makes_the_trip(member):
    metric = build(member)
    again = metrics.deserialize(metrics.serialize(metric))
    assert type(again) is type(metric)
    assert again.get_config() == metric.get_config()
    same(after(again, member.data(0)), after(metric, member.data(0)))


@every_member
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_copies_go_their_own_way(member, copied):
    metric = build(member)
    after(metric, member.data(0))
    other = copied(metric)
    same(other.result(), metric.result())
    after(other, member.data(1))
    assert all(mine is not theirs for mine, theirs in zip(metric.variables, other.variables))
    same(other.result(), after(build(member), member.data(0), member.data(1)))


@every_member
def test_a_snapshot_brings_everything_back(member):
    metric = build(member)
    expected = after(metric, member.data(0)).clone()
    snapshot = metric.snapshot_state()
    after(metric, member.data(1))
    metric.restore_state(snapshot)
    same(metric.result(), expected)


@every_member
def test_gradients_do_not_enter_the_state(member):
    metric = build(member)
    y_true, y_pred = (torch.as_tensor(part) for part in member.data(0))
    metric.update_state(y_true, y_pred.requires_grad_() if y_pred.is_floating_point() else y_pred)
    assert not any(variable.requires_grad for variable in metric.variables)

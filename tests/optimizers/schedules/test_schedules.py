import pytest

from torchfit.optimizers import schedules


def test_piecewise_rates_hold_up_to_their_boundary():
    rate = schedules.PiecewiseConstantDecay([1, 3], [0.3, 0.2, 0.1])
    assert [rate(step) for step in range(5)] == [0.3, 0.3, 0.2, 0.2, 0.1]


def test_restarts_come_at_the_exact_step():
    """Keras calculates in float32 and misses some restarts by a step: 100 here."""
    rate = schedules.CosineDecayRestarts(0.1, first_decay_steps=40, t_mul=1.5)
    assert [rate(step) for step in (0, 40, 100)] == pytest.approx([0.1, 0.1, 0.1])


def test_polynomial_cycles():
    rate = schedules.PolynomialDecay(1.0, decay_steps=2, end_learning_rate=0.0, cycle=True)
    assert [rate(step) for step in range(5)] == [1.0, 0.5, 0.0, 0.25, 0.0]


def test_warm_up_then_fall():
    rate = schedules.CosineDecay(0.0, decay_steps=2, warmup_target=1.0, warmup_steps=2)
    assert [rate(step) for step in range(6)] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.ExponentialDecay(0.1, 0, 0.5), "`decay_steps` must be > 0. Received: decay_steps=0"),
        (lambda: schedules.CosineDecay(0.1, -1), "`decay_steps` must be > 0"),
        (lambda: schedules.CosineDecayRestarts(0.1, 0), "`first_decay_steps` must be > 0"),
        (lambda: schedules.PiecewiseConstantDecay([1], [0.1]), "one entry less than `values`"),
        (lambda: schedules.PiecewiseConstantDecay([2, 1], [0.1, 0.2, 0.3]), "must rise"),
        (lambda: schedules.deserialize({"class_name": "CosinDecay", "config": {}}), "Did you mean 'CosineDecay"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_own_schedules_say_what_to_define():
    with pytest.raises(NotImplementedError, match="must define `__call__"):
        schedules.LearningRateSchedule()(0)
    with pytest.raises(NotImplementedError, match="must define `get_config"):
        schedules.LearningRateSchedule().get_config()

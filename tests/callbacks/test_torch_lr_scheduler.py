import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from torchfit.callbacks import History, LambdaCallback, TorchLRScheduler
from torchfit.optimizers import SGD
from torchfit.optimizers.torch_optimizer import TorchOptimizer


@pytest.fixture(autouse=True)
def own_optimizer(model):
    model.optimizer = SGD(1.0)


def test_it_steps_after_every_epoch(drive):
    history = History()
    drive([TorchLRScheduler(lambda optimizer: StepLR(optimizer, 2, gamma=0.5)), history], [{}] * 5)
    assert history.history["learning_rate"] == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_it_steps_after_every_batch(drive, model):
    halve = TorchLRScheduler(lambda optimizer: ExponentialLR(optimizer, 0.5), interval="batch")
    drive(halve, [{}] * 2, steps=3)
    assert model.optimizer.learning_rate == 0.5**6


def test_groups_of_batches_are_stepped_whole(model):
    halve = TorchLRScheduler(lambda optimizer: ExponentialLR(optimizer, 0.5), interval="batch")
    halve.set_model(model)
    halve.on_train_begin()
    halve.on_epoch_begin(0)
    halve.on_train_batch_end(3, {})
    assert model.optimizer.learning_rate == 0.5**4


def test_schedulers_that_change_the_rate_at_once(drive, model):
    drive(TorchLRScheduler(lambda optimizer: OneCycleLR(optimizer, max_lr=1.0, total_steps=10), "batch"), [{}])
    assert model.optimizer.learning_rate == pytest.approx(0.04)


def test_a_scheduler_that_steps_on_a_value(drive, model):
    plateau = TorchLRScheduler(lambda optimizer: ReduceLROnPlateau(optimizer, patience=1, factor=0.5))
    drive(plateau, [{"val_loss": 0.5}] * 3)
    assert model.optimizer.learning_rate == 0.5


def test_a_value_that_cannot_occur_is_refused(drive):
    with pytest.raises(ValueError, match="TorchLRScheduler: monitor: 'val_loss' does not occur"):
        drive(TorchLRScheduler(ReduceLROnPlateau), [], metrics=["loss"])


# torch 2.6 calls its own schedulers in a way that it warns of.
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
def test_composed_schedulers(drive, model):
    def make(optimizer):
        return SequentialLR(optimizer, [StepLR(optimizer, 100), ExponentialLR(optimizer, 0.5)], milestones=[2])

    drive(TorchLRScheduler(make), [{}] * 3)
    assert model.optimizer.learning_rate == 0.5


@pytest.mark.parametrize("given_as", ["scheduler", "callable"])
def test_torchs_own_optimizer_is_driven_directly(drive, model, given_as):
    inner = torch.optim.SGD(
        [{"params": model.module.weight, "lr": 1.0}, {"params": model.module.bias, "lr": 2.0}], lr=1.0
    )
    model.optimizer = TorchOptimizer(inner)
    make = StepLR(inner, 1, gamma=0.5) if given_as == "scheduler" else lambda optimizer: StepLR(optimizer, 1, 0.5)
    train = LambdaCallback(on_epoch_begin=lambda epoch, logs: inner.step())
    drive([TorchLRScheduler(make), train], [{}])
    assert [group["lr"] for group in inner.param_groups] == [0.5, 1.0]


def test_a_class_of_torchs_optimizers_is_made_first(drive, model):
    model.optimizer = TorchOptimizer(torch.optim.SGD)
    inner = []

    def make(optimizer):
        inner.append(optimizer)
        return StepLR(optimizer, 1, 0.5)

    train = LambdaCallback(on_epoch_begin=lambda epoch, logs: model.optimizer.step())
    drive([TorchLRScheduler(make), train], [{}])
    assert inner == [model.optimizer.optimizer]
    assert model.optimizer.learning_rate == 0.0005


def test_a_scheduler_on_another_optimizer_is_refused(drive, model):
    other = torch.optim.SGD(model.module.parameters(), lr=1.0)
    with pytest.raises(ValueError, match="belongs to another optimizer than the one that the model was compiled with"):
        drive(TorchLRScheduler(StepLR(other, 1)), [])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"interval: expected 'epoch' or 'batch'. Received: 'step'"):
        TorchLRScheduler(StepLR, interval="step")
    with pytest.raises(TypeError, match=r"scheduler: expected a scheduler of torch.optim.lr_scheduler"):
        TorchLRScheduler(0.1)


def test_it_goes_on_from_a_state(drive, model):
    first, second = (TorchLRScheduler(lambda optimizer: StepLR(optimizer, 2, gamma=0.5)) for _ in range(2))
    drive(first, [{}] * 3)
    state = first.state_dict()
    model.optimizer = SGD(1.0)
    second.set_model(model)
    second.on_train_begin()
    second.load_state_dict(state)
    assert model.optimizer.learning_rate == 0.5
    second.on_epoch_end(3, {})
    assert model.optimizer.learning_rate == 0.25


class LikeTimm:
    """Steps as the schedulers of timm: with the number of completed epochs, or of updates."""

    def __init__(self, optimizer, t_in_epochs=True):
        self.optimizer, self.t_in_epochs, self.seen = optimizer, t_in_epochs, []
        self.base = optimizer.param_groups[0]["lr"]

    def _update(self, count, metric):
        self.seen.append((count, metric))
        self.optimizer.param_groups[0]["lr"] = self.base * 0.5**count

    def step(self, epoch, metric=None):
        if self.t_in_epochs:
            self._update(epoch, metric)

    def step_update(self, num_updates, metric=None):
        if not self.t_in_epochs:
            self._update(num_updates, metric)

    def state_dict(self):
        return {"base": self.base}

    def load_state_dict(self, state):
        self.base = state["base"]


def test_a_scheduler_of_timm_gets_the_number_of_epochs(drive, model):
    schedule = TorchLRScheduler(LikeTimm)
    drive(schedule, [{}] * 3)
    assert schedule.scheduler.seen == [(1, None), (2, None), (3, None)]
    assert model.optimizer.learning_rate == 0.125


def test_a_scheduler_of_timm_gets_the_number_of_updates(drive, model):
    schedule = TorchLRScheduler(lambda optimizer: LikeTimm(optimizer, t_in_epochs=False), interval="batch")
    drive(schedule, [{}] * 2, steps=2)
    assert [count for count, _ in schedule.scheduler.seen] == [1, 2, 3, 4]
    resumed = TorchLRScheduler(lambda optimizer: LikeTimm(optimizer, t_in_epochs=False), interval="batch")
    resumed.set_model(model)
    resumed.on_train_begin()
    resumed.load_state_dict(schedule.state_dict())
    resumed.on_epoch_begin(2)
    resumed.on_train_batch_end(0, {})
    assert resumed.scheduler.seen == [(5, None)]


@pytest.mark.parametrize(("interval", "in_epochs"), [("epoch", False), ("batch", True)])
def test_an_interval_at_which_a_scheduler_of_timm_never_steps_is_refused(drive, interval, in_epochs):
    with pytest.raises(ValueError, match=f"Pass interval='{'epoch' if in_epochs else 'batch'}'"):
        drive(TorchLRScheduler(lambda optimizer: LikeTimm(optimizer, in_epochs), interval), [])


def test_a_plateau_of_timm_gets_the_value(drive, model):
    class Plateau(LikeTimm):
        def __init__(self, optimizer):
            super().__init__(optimizer)
            self.lr_scheduler = ReduceLROnPlateau(optimizer)

    schedule = TorchLRScheduler(Plateau)
    drive(schedule, [{"val_loss": 0.5}, {}], metrics=["val_loss"])
    assert schedule.scheduler.seen == [(1, 0.5)]


def recording(step):
    """Return a scheduler class whose `step` has the signature of a function, and records what it is called with."""

    class Recording:
        def __init__(self, optimizer):
            self.group, self.seen = optimizer.param_groups[0], []

        def state_dict(self):
            return {}

    return type("WithStep", (Recording,), {"step": step})


def without(self):
    self.seen.append("called")


def by_position(self, metrics, /):
    self.seen.append(metrics)


def by_keyword(self, *, metrics):
    self.seen.append(metrics)


def by_another_name(self, val_loss, epoch=None):
    self.seen.append((val_loss, epoch))


def by_the_name_of_the_metric(self, epoch=None, val_mae=None):
    self.seen.append((epoch, val_mae))


def after_the_epoch(self, epoch=None, metrics=None):
    self.seen.append((epoch, metrics))


def of_both(self, val_loss, epoch):
    self.seen.append((val_loss, epoch))


@pytest.mark.parametrize(
    ("step", "seen"),
    [
        (without, ["called"]),
        (by_position, [0.5]),
        (by_keyword, [0.5]),
        (by_another_name, [(0.5, None)]),
        (after_the_epoch, [(None, 0.5)]),
        (of_both, [(0.5, 1)]),
    ],
)
def test_the_value_is_passed_as_the_signature_asks(drive, step, seen):
    schedule = TorchLRScheduler(recording(step))
    drive(schedule, [{"val_loss": 0.5}])
    assert schedule.scheduler.seen == seen


def test_a_parameter_may_have_the_name_of_the_metric(drive):
    schedule = TorchLRScheduler(recording(by_the_name_of_the_metric), monitor="val_mae")
    drive(schedule, [{"val_loss": 0.5, "val_mae": 0.7}])
    assert schedule.scheduler.seen == [(None, 0.7)]


@pytest.mark.parametrize("interval", ["epoch", "batch"])
def test_a_value_with_a_default_may_be_missing(drive, interval):
    schedule = TorchLRScheduler(recording(after_the_epoch), interval)
    drive(schedule, [{"loss": 0.5}], metrics=["loss"], steps=1)
    assert schedule.scheduler.seen == [(None, None)]


def test_a_value_that_was_asked_for_may_not_be_missing(drive):
    with pytest.raises(ValueError, match="monitor: 'val_mae' does not occur"):
        drive(TorchLRScheduler(recording(after_the_epoch), monitor="val_mae"), [], metrics=["loss"])


def test_a_wrapped_plateau_needs_its_value(drive):
    class Warmup(recording(after_the_epoch)):
        def __init__(self, optimizer):
            super().__init__(optimizer)
            self.after_scheduler = ReduceLROnPlateau(optimizer)

    with pytest.raises(ValueError, match="monitor: 'val_loss' does not occur"):
        drive(TorchLRScheduler(Warmup), [], metrics=["loss"])


def test_a_value_of_validation_is_not_known_after_a_batch(drive):
    with pytest.raises(ValueError, match=r"'val_loss' is known only at the end of epochs. Pass interval='epoch'"):
        drive(TorchLRScheduler(ReduceLROnPlateau, "batch"), [])


def test_an_argument_of_unknown_meaning_is_refused(drive):
    with pytest.raises(TypeError, match=r"the method `step` of .* takes \(count\)"):
        drive(TorchLRScheduler(recording(lambda self, count: None)), [])


def test_the_callable_must_return_a_scheduler(drive):
    with pytest.raises(TypeError, match=r"must return a scheduler, an object with a method `step`. It returned: None"):
        drive(TorchLRScheduler(lambda optimizer: None), [])


class Harmonic:
    """A scheduler without an attribute `optimizer`."""

    def __init__(self, optimizer):
        self.held, self.steps = optimizer, 1

    def step(self):
        self.steps += 1
        self.held.param_groups[0]["lr"] = 1.0 / self.steps


@pytest.mark.parametrize("kind", ["torchfit", "torch"])
def test_a_scheduler_needs_no_attribute_for_its_optimizer(drive, model, kind):
    if kind == "torch":
        model.optimizer = TorchOptimizer(torch.optim.SGD(model.module.parameters(), lr=1.0))
    drive(TorchLRScheduler(Harmonic), [{}] * 3)
    assert model.optimizer.learning_rate == 0.25


def test_a_created_one_holds_the_optimizer_under_any_name(drive, model):
    inner = torch.optim.SGD(model.module.parameters(), lr=1.0)
    model.optimizer = TorchOptimizer(inner)
    drive(TorchLRScheduler(Harmonic(inner)), [{}])
    assert inner.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match="belongs to another optimizer"):
        drive(TorchLRScheduler(Harmonic(torch.optim.SGD(model.module.parameters()))), [])


def test_a_scheduler_without_a_state_cannot_be_stored(drive):
    schedule = TorchLRScheduler(Harmonic)
    drive(schedule, [])
    with pytest.raises(TypeError, match=r"needs the methods state_dict\(\) and load_state_dict\(state\)"):
        schedule.state_dict()


def one_cycle(optimizer):
    return OneCycleLR(optimizer, 0.1, total_steps=6, anneal_strategy="linear")


def test_a_negative_rate_after_the_last_step_is_not_used(drive, model):
    schedule = TorchLRScheduler(one_cycle, "batch")
    drive(schedule, [{}] * 2, steps=3)
    assert schedule.scheduler.get_last_lr()[0] < 0
    assert model.optimizer.learning_rate == pytest.approx(0, abs=1e-6)
    resumed = TorchLRScheduler(one_cycle, "batch")
    resumed.set_model(model)
    resumed.on_train_begin()
    resumed.load_state_dict(schedule.state_dict())
    with pytest.raises(ValueError, match=r"sets the learning rate -0\.\d+, which must not be negative"):
        resumed.on_epoch_begin(2)


def test_a_negative_rate_is_refused_before_another_epoch(drive):
    falling = TorchLRScheduler(lambda optimizer: LambdaLR(optimizer, lambda epoch: 1.0 - epoch))
    with pytest.raises(ValueError, match="sets the learning rate -1, which must not be negative"):
        drive(falling, [{}] * 3)

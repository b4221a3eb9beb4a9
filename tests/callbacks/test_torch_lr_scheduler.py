import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

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

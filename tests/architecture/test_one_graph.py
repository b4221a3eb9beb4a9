"""Every family stays traceable: the default step, optimizer and metrics included, is one graph."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from torchfit import losses, metrics, optimizers

pytestmark = [
    pytest.mark.graphs,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]

# Those that are not made from defaults alone, or that wrap what need not trace.
NO_RULES = {"Optimizer", "TorchOptimizer", "LossScaleOptimizer", "MultiOptimizer"}
RULES = [
    value
    for name, value in vars(optimizers).items()
    if isinstance(value, type) and issubclass(value, optimizers.Optimizer) and name not in NO_RULES
]
OPTIONS = {
    "sgd momentum": lambda: optimizers.SGD(learning_rate=0.1, momentum=0.9, nesterov=True),
    "rmsprop centered": lambda: optimizers.RMSprop(momentum=0.9, centered=True),
    "adam amsgrad": lambda: optimizers.Adam(amsgrad=True, clipnorm=1.0, weight_decay=0.01),
    "adam clipped": lambda: optimizers.Adam(global_clipnorm=1.0, use_ema=True),
    "sgd clipped": lambda: optimizers.SGD(clipvalue=0.1),
}
CLASSES = torch.randint(0, 3, (4,))
ONE_HOT = nn.functional.one_hot(CLASSES, 3).float()
TASKS = {
    "classes": (
        lambda: losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda: metrics.SparseCategoricalAccuracy(),
        CLASSES,
    ),
    "one-hot": (
        lambda: losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        lambda: metrics.CategoricalAccuracy(),
        ONE_HOT,
    ),
    "yes or no": (
        lambda: losses.BinaryCrossentropy(from_logits=True),
        lambda: metrics.BinaryAccuracy(),
        ONE_HOT,
    ),
    "squares": (lambda: losses.MeanSquaredError(), lambda: metrics.MeanSquaredError(), ONE_HOT),
    "distances": (lambda: losses.MeanAbsoluteError(), lambda: metrics.MeanAbsoluteError(), ONE_HOT),
}


def small_network():
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


class Step:
    """A training step made of the parts that the compiled step is made of."""

    def __init__(self, network, loss, optimizer, metric):
        self.network, self.loss, self.optimizer, self.metric = network, loss, optimizer, metric
        self.parameters = list(network.parameters())
        optimizer.build(self.parameters)

    def __call__(self, x, y, learning_rate, step):
        outputs = self.network(x)
        loss = self.loss(y, outputs)
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            self.optimizer.update(list(gradients), learning_rate, step)
            self.metric.update_state(y, outputs.detach())
        return loss.detach()


def train(step, x, y):
    """Take three steps and return their losses."""
    return [step(x, y, torch.tensor(0.01), torch.tensor(float(number))) for number in (1, 2, 3)]


def unchecked_custom_operators():
    """Switch off a check of custom operators, of which there are none, that refuses tensor subclasses."""
    if hasattr(torch._functorch.config, "check_custom_op_aliasing"):
        return torch._functorch.config.patch(check_custom_op_aliasing=False)
    return contextlib.nullcontext()


def check(network, task, optimizer):
    """Compare one compiled graph with the same step run eagerly."""
    make_loss, make_metric, y = task
    x = torch.randn(4, 5)
    eager = Step(copy.deepcopy(network), make_loss(), optimizer(), make_metric())
    traced = Step(network, make_loss(), optimizer(), make_metric())
    expected = train(eager, x, y)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True), unchecked_custom_operators():
        found = train(torch.compile(traced.__call__, fullgraph=True, backend="aot_eager"), x, y)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(traced.parameters, eager.parameters)
    torch.testing.assert_close(traced.metric.result(), eager.metric.result())


@pytest.mark.parametrize("optimizer", RULES, ids=lambda rule: rule.__name__)
def test_optimizers_trace(optimizer):
    check(small_network(), TASKS["classes"], optimizer)


@pytest.mark.parametrize("optimizer", OPTIONS.values(), ids=OPTIONS)
def test_options_of_optimizers_trace(optimizer):
    check(small_network(), TASKS["classes"], optimizer)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_losses_and_metrics_trace(task):
    check(small_network(), task, optimizers.RMSprop)


def test_buffers_of_the_network_trace():
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    check(network, TASKS["classes"], optimizers.Adam)

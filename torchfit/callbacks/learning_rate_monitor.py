"""LearningRateMonitor: log the learning rates of all parameter groups."""

from torchfit._types import Logs
from torchfit.callbacks._learning_rate import learning_rate_names, learning_rate_of, learning_rates_of
from torchfit.callbacks.base import Callback


class LearningRateMonitor(Callback):
    """Write the learning rates of the epoch into the logs, for the history, the trackers and the files of logs.

    `learning_rate` is that of the optimizer. With several parameter groups, there is one entry for each, such as
    `learning_rate_0`, or `learning_rate_head` for a group with the key `"name"`.

    >>> import torch, torchfit
    >>> net = torch.nn.Linear(2, 1)
    >>> groups = [{"params": [net.weight], "lr": 0.1}, {"params": [net.bias], "lr": 0.2, "name": "bias"}]
    >>> model = torchfit.Model(net)
    >>> model.compile(torch.optim.SGD(groups), "mse")
    >>> history = model.fit(torch.ones(4, 2), torch.ones(4, 1), verbose=0, callbacks=[LearningRateMonitor()])
    >>> {name: round(value, 6) for name, (value,) in history.history.items() if name != "loss"}
    {'learning_rate': 0.1, 'learning_rate_0': 0.1, 'learning_rate_bias': 0.2}
    """

    written_logs = ("learning_rate",)
    runs_first = ("on_epoch_end",)  # before schedulers set the rates of the next epoch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the rates into the logs."""
        if logs is None:
            return
        logs["learning_rate"] = learning_rate_of(self.model)
        rates = learning_rates_of(self.model)
        if len(rates) > 1:
            logs.update(zip(learning_rate_names(self.model), rates))

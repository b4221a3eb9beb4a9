"""`FineTuning`, which unfreezes parts of a model at given epochs, with separate learning rates."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

from torchfit._types import Logs
from torchfit._utils import console
from torchfit._utils.errors import describe
from torchfit._utils.modules import has_running_stats, matching_parameters, set_trainable, stays_in_eval
from torchfit.callbacks.base import Callback
from torchfit.callbacks.learning_rate import learning_rate_of

Stage: TypeAlias = "str | Iterable[str] | Mapping[str, float | None]"


class FineTuning(Callback):
    """Unfreezes parts of a model at given epochs, each with its own learning rate: first the head, then the rest.

    Parts that are listed for a later epoch are frozen until then, including the statistics of normalization layers.
    Parts that are not listed are left unchanged. All parameter groups are created at the start, so that schedulers
    scale the rates of frozen parts as well, and an interrupted run can be resumed.

    Args:
        schedule: A mapping from epochs, counted from 0, to the parts that are trained from that epoch on: a name, a
            list of names, or a mapping from names to learning rates, which require an optimizer of `torch.optim`. A
            name is that of a submodule or parameter, or a pattern, as in `utils.freeze`.
        verbose: 1 prints what is unfrozen.

    Raises:
        ValueError: If the schedule is invalid; before the first epoch, if a name matches nothing, or two epochs list
            the same parameter.
        TypeError: Before the first epoch, if rates are given for an optimizer of torchfit.

    >>> import torch, torchfit
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    >>> model = torchfit.Model(net)
    >>> model.compile(torch.optim.SGD(net.parameters(), lr=0.1), "mse")
    >>> tuning = FineTuning({1: {"0": 0.01}}, verbose=1)
    >>> history = model.fit(torch.ones(4, 2), torch.ones(4, 1), epochs=2, verbose=0, callbacks=[tuning])
    Epoch 2: FineTuning unfreezes 0 (2 parameters, learning rate 0.01).
    """

    written_logs = ()
    runs_first = ("on_train_begin", "on_epoch_begin")  # before schedulers are created for the groups

    def __init__(self, schedule: Mapping[int, Stage], verbose: int = 0) -> None:
        self.schedule = schedule
        self.verbose = verbose
        if not isinstance(schedule, Mapping) or not schedule:
            raise ValueError(f"schedule: expected a mapping of epochs to names. Received: {describe(schedule)}")
        self._stages = {_checked_epoch(epoch): _as_rates(stage) for epoch, stage in sorted(schedule.items())}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Create the parameter groups, and freeze the parts that are not trained from the start."""
        members = self._members()
        for stage in self._stages.values():
            set_trainable(self.model, stage, trained=True)
        optimizer = self.model.optimizer
        self.model.build_optimizer()
        rates = {name: rate for stage in self._stages.values() for name, rate in stage.items() if rate is not None}
        if rates:
            self._create_groups(getattr(optimizer, "optimizer", None), rates, members)
        self._apply(0)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Unfreeze the parts that are trained from this epoch on."""
        self._apply(epoch)
        for pattern, rate in self._stages.get(epoch, {}).items() if self.verbose > 0 else ():
            count = len(self._parameters([pattern]))
            at = f"learning rate {learning_rate_of(self.model) if rate is None else rate:g}"
            console.write_line(f"Epoch {epoch + 1}: FineTuning unfreezes {pattern} ({count} parameters, {at}).")

    def _parameters(self, patterns: Iterable[str]) -> list[tuple[str, Tensor]]:
        chosen = matching_parameters(self.model.module, patterns)
        return [(name, parameter) for name, parameter in self.model.module.named_parameters() if name in chosen]

    def _members(self) -> dict[str, list[tuple[str, Tensor]]]:
        """Return the parameters that belong to each listed name.

        Raises:
            ValueError: If a parameter belongs to two names.
        """
        members: dict[str, list[tuple[str, Tensor]]] = {}
        owners: dict[str, str] = {}
        for pattern in (pattern for stage in self._stages.values() for pattern in stage):
            members[pattern] = self._parameters([pattern])
            for name, _ in members[pattern]:
                if owners.setdefault(name, pattern) != pattern:
                    raise ValueError(f"FineTuning: {name!r} is listed twice: by {owners[name]!r} and by {pattern!r}.")
        return members

    def _apply(self, epoch: int) -> None:
        """Freeze the parts listed for later epochs, and unfreeze the other listed parts."""
        module = self.model.module
        for start, stage in self._stages.items():
            listed = set(map(id, (parameter for _, parameter in self._parameters(stage))))
            set_trainable(self.model, stage, trained=start <= epoch)
            for layer in filter(has_running_stats, module.modules()):
                if listed & set(map(id, layer.parameters(recurse=False))):
                    layer.training = module.training and not stays_in_eval(layer)

    def _create_groups(
        self,
        optimizer: object,
        rates: Mapping[str, float],
        members: Mapping[str, list[tuple[str, Tensor]]],
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                "FineTuning: parts of a model have learning rates of their own with optimizers of torch.optim only. "
                f"Received: {describe(self.model.optimizer)}. Leave the rates out, or compile with one of torch.optim."
            )
        for pattern, rate in rates.items():
            _move_to_group(optimizer, members[pattern], rate, pattern)


def _move_to_group(optimizer: Optimizer, named: list[tuple[str, Tensor]], rate: float, pattern: str) -> None:
    """Move parameters to a new group, with the settings of the group of the first one but another learning rate."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    moved = {id(parameter) for _, parameter in named}
    has_names = any("param_names" in group for group in groups)
    home = next((group for group in groups if moved & set(map(id, group["params"]))), {})
    settings = {key: value for key, value in home.items() if key not in ("params", "param_names", "name", "initial_lr")}
    for group in groups:
        kept = [place for place, parameter in enumerate(group["params"]) if id(parameter) not in moved]
        for key in ("params", "param_names"):
            if key in group:
                group[key] = [group[key][place] for place in kept]
    groups[:] = [group for group in groups if group["params"]]
    params = named if has_names else [parameter for _, parameter in named]
    optimizer.add_param_group({**settings, "params": params, "lr": rate, "name": pattern})


def _checked_epoch(epoch: object) -> int:
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"schedule: expected epochs, from 0. Received: {describe(epoch)}")
    return epoch


def _as_rates(stage: str | Iterable[str] | Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the parts listed for an epoch, as names with their learning rates.

    >>> _as_rates("head"), _as_rates(["a", "b"]), _as_rates({"a": 0.1})
    ({'head': None}, {'a': None, 'b': None}, {'a': 0.1})
    """
    if isinstance(stage, str):
        return {stage: None}
    rates = dict(stage) if isinstance(stage, Mapping) else dict.fromkeys(stage)
    for name, rate in rates.items():
        if not isinstance(name, str) or isinstance(rate, bool) or not (rate is None or float(rate) >= 0):
            received = f"{describe(name)}: {describe(rate)}"
            raise ValueError(f"schedule: expected names and learning rates. Received: {received}")
    return rates

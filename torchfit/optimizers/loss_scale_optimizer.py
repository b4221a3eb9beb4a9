"""`LossScaleOptimizer`, which scales the loss dynamically for float16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from torchfit._types import Config, StateDict
from torchfit._utils.names import argument_names
from torchfit.optimizers import _arguments
from torchfit.optimizers._binding import require_built_in_steps
from torchfit.optimizers._foreach import Scalar, Tensors, copy_where_, norms
from torchfit.optimizers._parameter_store import RestorePlan
from torchfit.optimizers._parameters import NamedTensor, Parameters
from torchfit.optimizers.base import REGISTRY, Optimizer
from torchfit.optimizers.schedules.base import LearningRate


class LossScaleOptimizer(Optimizer):
    """Scale the loss up so that float16 gradients do not vanish, and skip the updates where they overflow.

    The loss times the scale is what gradients are taken of (`scale_loss`). If they are all finite they are divided by
    the scale and given to the inner optimizer, and after `dynamic_growth_steps` of such updates in a row the scale
    doubles. Otherwise nothing is updated, and the scale is halved. All of this is decided on the device: nothing is
    read on the host, unless the inner learning rate is a schedule, which must know how many updates were made.

    Args:
        inner_optimizer: The optimizer that updates the parameters, one of torchfit. Clipping, decay, averages and
            accumulation are its arguments; with accumulation, the mean gradient is what must be finite.
        initial_scale: The first scale, > 0. Default 2**15.
        dynamic_growth_steps: After how many finite updates in a row the scale doubles. Default 2000.
        name: What the optimizer is called.
        dynamic: Always true; for a fixed scale, set `loss_scale_factor` of the inner optimizer instead.
        **unknown: Nothing; arguments of the inner optimizer are refused with a hint.

    Raises:
        ValueError: An argument is outside its range, or belongs to the inner optimizer.

    >>> from torchfit.optimizers import SGD
    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = LossScaleOptimizer(SGD(0.5), initial_scale=8.0)
    >>> optimizer.build([weight])
    >>> optimizer.apply([torch.tensor([8.0])])
    >>> optimizer.apply([torch.tensor([float("inf")])])
    >>> weight.data, float(optimizer.dynamic_scale), optimizer.iterations, optimizer.skipped_updates
    (tensor([0.5000]), 4.0, 1, 1)
    """

    wraps_others = True

    def __init__(
        self,
        inner_optimizer: Optimizer,
        initial_scale: float = 2.0**15,
        dynamic_growth_steps: int = 2000,
        name: str | None = None,
        dynamic: bool = True,
        **unknown: object,
    ):
        if not isinstance(inner_optimizer, Optimizer) or isinstance(inner_optimizer, LossScaleOptimizer):
            rule = "an optimizer of torchfit.optimizers that scales no loss itself"
            _arguments.invalid("inner_optimizer", rule, inner_optimizer)
        require_built_in_steps(inner_optimizer, "LossScaleOptimizer")
        _check_no_unknown(unknown)
        if not dynamic:
            raise ValueError(
                "A `LossScaleOptimizer` adapts its scale: `dynamic=False` is not possible. For a fixed scale, set "
                "`loss_scale_factor` of the inner optimizer, such as Adam(loss_scale_factor=1024), and use that."
            )
        self._inner = inner_optimizer
        super().__init__(0.0, name=name)
        inner_optimizer.loss_scale_factor = None
        self.initial_scale = _arguments.positive("initial_scale", initial_scale)
        self.dynamic_growth_steps = _arguments.integer("dynamic_growth_steps", dynamic_growth_steps, 1)
        self.gradient_accumulation_steps = inner_optimizer.gradient_accumulation_steps
        self.use_ema = inner_optimizer.use_ema

    @property
    def inner_optimizer(self) -> Optimizer:
        """The optimizer that updates the parameters. Its counts are brought up to date, which reads a tensor."""
        if self.built:
            self._inner.count_to(self.iterations, self._num_gradients - self._gradients_of_skipped_updates())
        return self._inner

    def _init_learning_rate(self, learning_rate: object) -> None:
        """Leave the learning rate to the inner optimizer."""

    def create_global_state(self, parameters: Tensors) -> dict[str, Tensor]:
        """The scale, the finite updates in a row, and the skipped updates."""
        device = parameters[0].device if parameters else None
        return {
            "dynamic_scale": torch.full((), float(self.initial_scale), device=device),
            "step_counter": torch.zeros((), device=device),
            "skipped": torch.zeros((), device=device),
        }

    def bind(self, params: Parameters, step: int = 0) -> None:
        """Bind the inner optimizer, which holds the state of the parameters."""
        inner = self._inner
        inner.bind(params, step)
        inner.built = True
        self._params, self._parameters = params, params.tensors
        self._averages, self._accumulator = inner.averages, inner.accumulator
        if not self.built:
            self._global_state = {**inner.global_state, **super().first_global_state()}

    def first_global_state(self) -> dict[str, Tensor]:
        """Return the first value of the scale, and of what the inner optimizer shares between parameters."""
        return {**self._inner.first_global_state(), **super().first_global_state()}

    def update(self, gradients: Sequence[Tensor | None], *numbers: Scalar) -> None:
        """Make the inner update where all gradients are finite, and adapt the scale. See `Optimizer.update`."""
        with torch.no_grad():
            scale, skipped = self._global_state["dynamic_scale"], self._global_state["skipped"]
            gradients = [g.to_dense() if g is not None and g.is_sparse else g for g in gradients]
            finite = _all_finite([gradient for gradient in gradients if gradient is not None])
            mutable = self._inner.mutable_state()
            before = list(torch._foreach_mul(mutable, 1))
            unscaled = [None if gradient is None else gradient / scale for gradient in gradients]
            *rates, step = [number if isinstance(number, Tensor) else scale.new_full((), number) for number in numbers]
            self._inner.update(unscaled, *rates, step - skipped)
            copy_where_(~finite, mutable, before)
            self._update_scale(finite)

    def _update_scale(self, finite: Tensor) -> None:
        self._global_state["skipped"].add_(~finite)
        scale, counter = self._global_state["dynamic_scale"], self._global_state["step_counter"]
        should_grow = finite & (counter + 1 >= self.dynamic_growth_steps)
        scale.mul_(torch.where(finite, torch.where(should_grow, 2.0, 1.0), 0.5))
        counter.copy_(torch.where(finite & ~should_grow, counter + 1, 0.0))

    def begin_update(self) -> tuple[float, ...]:
        """Count an update, tried or made, and return its learning rate and step. See `Optimizer.begin_update`."""
        rates = self.rates_at(self._num_gradients)
        self._num_updates += 1
        self._num_gradients += 1
        return *rates, self._num_updates

    @property
    def count_of_numbers(self) -> int:
        """How many numbers an update needs: those of the inner optimizer."""
        return self._inner.count_of_numbers

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Multiply a loss by the scale, before its gradients are taken."""
        return loss * (self.dynamic_scale if self.built else self.initial_scale)

    @property
    def dynamic_scale(self) -> Tensor:
        """The present scale, a 0-d tensor on the parameters' device. Known after `build`."""
        return self._global_state["dynamic_scale"]

    @property
    def skipped_updates(self) -> int:
        """How many updates were skipped because a gradient was not finite. Reads a tensor."""
        return int(self._global_state["skipped"]) if self.built else 0

    @property
    def iterations(self) -> int:
        """How many updates were made, without the skipped ones. Reads a tensor."""
        return self._num_updates - self.skipped_updates

    @property
    def learning_rate(self) -> float:
        """The inner optimizer's learning rate."""
        return self.learning_rate_at(self._num_gradients)

    @learning_rate.setter
    def learning_rate(self, value: object) -> None:
        self._inner.learning_rate = value

    def learning_rate_at(self, num_gradients: int) -> float:
        """Return the inner optimizer's learning rate after this many gradients, without those of skipped updates."""
        return self._inner.learning_rate_at(num_gradients - self._skipped_gradients())

    def rates_at(self, num_gradients: int) -> tuple[float, ...]:
        """Return the learning rates of the inner optimizer after this many gradients."""
        return self._inner.rates_at(num_gradients - self._skipped_gradients())

    def _skipped_gradients(self) -> int:
        """Count the gradients of skipped updates. Reads a tensor, and so only where a schedule asks."""
        if not callable(self.learning_rate_or_schedule):
            return 0
        return self._gradients_of_skipped_updates()

    def _gradients_of_skipped_updates(self) -> int:
        return self.skipped_updates * (self.gradient_accumulation_steps or 1)

    @property
    def learning_rate_or_schedule(self) -> LearningRate | None:
        """The inner optimizer's number, or its schedule."""
        return self._inner.learning_rate_or_schedule

    # The state of the parameters is the inner optimizer's.

    @property
    def held(self) -> list[NamedTensor]:
        """The parameters that the inner optimizer has a state for."""
        return self._inner.held

    def rename(self, entries: Iterable[NamedTensor]) -> None:
        """Rename the inner optimizer's parameters."""
        self._inner.rename(entries)

    def parameter_state(self) -> StateDict:
        """Return the state of the inner optimizer's parameters."""
        return self._inner.parameter_state()

    def plan_restore(self, state: StateDict, known: Iterable[NamedTensor], *, strict: bool = True) -> RestorePlan:
        """Check a state for the inner optimizer."""
        return self._inner.plan_restore(state, known, strict=strict)

    def restore(self, plan: RestorePlan, num_updates: int) -> None:
        """Restore the state of the inner optimizer."""
        self._inner.restore(plan, num_updates)

    def require_accumulation_group(self, group: int) -> None:
        """Create the sums of a group of losses in the inner optimizer."""
        self._inner.require_accumulation_group(group)

    def slot_variables(self) -> Tensors:
        """List the slots of the inner optimizer."""
        return self._inner.slot_variables()

    def exclude_from_weight_decay(
        self, var_list: Iterable[Tensor] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Exclude parameters from the inner optimizer's weight decay. See `Optimizer.exclude_from_weight_decay`."""
        self._inner.exclude_from_weight_decay(var_list, var_names)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data, the inner optimizer's among them."""
        return {
            "name": self.name,
            "inner_optimizer": REGISTRY.serialize(self._inner),
            "initial_scale": self.initial_scale,
            "dynamic_growth_steps": self.dynamic_growth_steps,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> LossScaleOptimizer:
        """Build an optimizer from what `get_config` returned, the inner one included."""
        inner = REGISTRY.deserialize(config["inner_optimizer"], custom_objects)
        return cls(inner, **{name: value for name, value in config.items() if name != "inner_optimizer"})


def _check_no_unknown(unknown: Mapping[str, object]) -> None:
    for name in unknown:
        if name in _arguments.init_arg_names(Optimizer):
            raise ValueError(f"`LossScaleOptimizer` has no argument `{name}`: set it on the inner optimizer.")
        _arguments.no_unknown_kwargs("LossScaleOptimizer", unknown, argument_names(LossScaleOptimizer.__init__))


def _all_finite(tensors: Tensors) -> Tensor:
    """Return, on the device, whether there is neither an infinity nor a NaN."""
    largest = norms(tensors, float("inf"))
    return torch.stack([each.to(largest[0]) for each in largest]).isfinite().all()

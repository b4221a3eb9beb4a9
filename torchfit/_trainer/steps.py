"""What happens to one batch: the steps, the loss and the metrics, each of which may be overridden."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchfit._execution.step_program import (
    DependentStepsError,
    Pieces,
    Step,
    check_apart,
    concatenated,
    last,
    overridden,
    unpacked,
)
from torchfit._trainer.gathering import Gathering
from torchfit._trainer.logs import Logs, Results
from torchfit._trainer.microbatches import Microbatches, detached
from torchfit._utils import tree
from torchfit._utils.batch import Batch, parts_of, unwrapped

_MOST_TOGETHER = 32
_BYTES_TOGETHER = 2**18  # Of outputs: small beside any result, and the caches hold them.


class Steps(Gathering):
    """A module with an objective and an optimizer, and what they do with a batch."""

    optimizer: Any
    _microbatches: Microbatches | None = None
    _loss_asks_for_mode: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Find out whether a `compute_loss` of the user's takes `training`."""
        super().__init_subclass__(**kwargs)
        parameters = inspect.signature(cls.compute_loss).parameters
        cls._loss_asks_for_mode = "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    # -- the steps, which may be overridden ----------------------------------------------------------------

    def train_step(self, batch: Batch) -> Results:
        """Train on one batch: forward, loss, backward, update, metrics.

        Override it to train in your own way. `batch` is on the model's device: a tuple `(x, y)` or
        `(x, y, sample_weight)`, or, where there are inputs alone, `x` itself (in a tuple of 1 if it is a list or
        tuple). What you return, names to numbers or tensors, becomes the logs. There are `self(x, training=True)`,
        `self.compute_loss`, `self.optimizer`, `self.trainable_weights`, `self.metrics`, `self.get_metrics_result`.
        """
        inputs, targets, sample_weight = parts_of(batch)
        loss, outputs = self.forward_loss(inputs, targets, sample_weight)
        if not self.optimizer.built:
            self.build_optimizer()
        self.optimizer.scale_loss(loss).backward()
        rows = self._rows(inputs)
        self.optimizer.step(rows)
        self.optimizer.zero_grad()
        self._objective.tracker.update_state(loss, rows)
        return self.compute_metrics(inputs, targets, outputs, sample_weight)

    def test_step(self, batch: Batch) -> Results:
        """Evaluate one batch: forward, loss, metrics. May be overridden, as `train_step`."""
        inputs, targets, sample_weight = parts_of(batch)
        loss, outputs = self.forward_loss(inputs, targets, sample_weight)
        self._objective.tracker.update_state(loss, self._rows(inputs))
        return self.compute_metrics(inputs, targets, outputs, sample_weight)

    def predict_step(self, batch: Batch) -> Any:
        """Return the outputs for one batch. May be overridden, as `train_step`."""
        return self._call(parts_of(batch)[0])

    def forward_loss(self, inputs: Any, targets: Any, sample_weight: Any) -> tuple[Tensor, Any]:
        """Return the loss to minimise, a scalar, and the outputs of the module."""
        added = self._added
        previous = added.enter()
        try:
            outputs = self._call(inputs)
            if self._loss_asks_for_mode:
                loss = self.compute_loss(inputs, targets, outputs, sample_weight, training=self.training)
            else:
                loss = self.compute_loss(inputs, targets, outputs, sample_weight)
            added.losses.clear()
            return loss, outputs
        finally:
            added.leave(previous)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """Return the loss to minimise, a scalar: the weighted sum of the losses of all outputs, and what was added.

        An override may leave `training` out. In evaluation, a model without any loss has a loss of 0.

        Raises:
            ValueError: If there is nothing to minimise.
        """
        loss, added = self._objective.loss(y, y_pred, sample_weight), self._added
        if added.losses or added.penalties:
            loss = added.total(loss)
        if loss is not None:
            return loss
        if training:
            raise ValueError(
                "There is no loss to compute: pass `loss=` to `compile` and targets `y`, or add losses with `add_loss`."
            )
        return torch.zeros((), device=self._objective.tracker.total.device)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Results:
        """Update the compiled and added metrics with one batch and return all results, read when needed."""
        self._objective.update_metrics(y, y_pred, sample_weight)
        if self._added.values or self._added.gauges:
            self._added.update_metrics()
        return Logs(self.get_metrics_result)

    def compiled_loss(
        self, y: Any, y_pred: Any, sample_weight: Any = None, regularization_losses: Any = None
    ) -> Tensor:
        """Return the loss of `compile`, with the sum of `regularization_losses`, and take it into the mean `loss`.

        For steps written for Keras 2; new ones call `compute_loss`.
        """
        loss = self._objective.loss(y, y_pred, sample_weight)
        for value in regularization_losses or ():
            loss = value.sum() if loss is None else loss + value.sum()
        if loss is None:
            raise ValueError("There is no loss to compute: pass `loss=` to `compile` and targets `y`.")
        self._objective.tracker.update_state(loss.detach())
        return loss

    @property
    def compiled_metrics(self) -> "CompiledMetrics":
        """What updates the metrics of `compile`, for steps written for Keras 2; new ones call `compute_metrics`."""
        return CompiledMetrics(self._objective.update_metrics)

    # -- small steps done together ------------------------------------------------------------------------------

    def _call_all(self, batches: Sequence[Batch]) -> list[Any]:
        """Call the module with every batch, if it does not add losses or metrics to each."""
        call, _ = self._calls.get(type(batches[0][0])) or self._bind_call(batches[0][0])
        previous = self._added.enter()
        try:
            outputs = [call(batch[0]) for batch in batches]
        finally:
            self._added.leave(previous)
        if self._added.losses or self._added.values:
            raise DependentStepsError
        return outputs

    def _test_together(self, batches: Sequence[Batch]) -> Logs:
        """Do what `test_step` does with every batch, in turns."""
        called = self._call_all(batches)
        check_apart(called)
        objective, parts = self._objective, [batch.parts for batch in batches]
        losses = [
            self.compute_loss(inputs, targets, outputs, weight, training=False)
            for (inputs, targets, weight), outputs in zip(parts, called)
        ]
        for loss, (inputs, _, _) in zip(losses, parts):
            objective.tracker.update_state(loss, self._rows(inputs))
        for (_, targets, weight), outputs in zip(parts, called):
            objective.update_metrics(targets, outputs, weight)
        return Logs(self.get_metrics_result)

    def _test_room(self, _: Any) -> int:
        return _room(self._objective.output_bytes) if self._objective.is_self_contained else 1

    def _predict_together(self, batches: Sequence[Batch]) -> Any:
        """Do what `predict_step` does with every batch, and join the outputs."""
        return concatenated(self._call_all(batches))

    # -- the training step in several passes ---------------------------------------------------------------

    def _train_in_parts(self, batch: Batch) -> Results:
        """Do what `train_step` does with as much of the batch at once as the memory allows."""
        rows, parts = self._rows(batch.inputs), self._microbatches
        assert parts is not None
        while True:
            kept = [(tracker, tracker.snapshot_state()) for tracker in self._objective.trackers]
            try:
                return self._train_on_parts(parts.parts(batch, rows), rows)
            except (RuntimeError, MemoryError) as error:
                parts.shrink(rows, error)
            for tracker, state in kept:
                tracker.restore_state(state)
            self.module.zero_grad()

    def _train_on_parts(self, parts: Iterable[tuple[Batch, float]], rows: int) -> Results:
        done, losses, logged = [], [], []
        for part, share in parts:
            inputs, targets, sample_weight = part.parts
            loss, outputs = self.forward_loss(inputs, targets, sample_weight)
            if not self.optimizer.built:
                self.build_optimizer()
            loss = loss * (1.0 if self._objective.sums else share)
            self.optimizer.scale_loss(loss).backward()
            losses.append(loss.detach())
            done.append((targets, detached(outputs), sample_weight))
            logged += self._added.values
        self.optimizer.step(rows)
        self.optimizer.zero_grad()
        self._objective.tracker.update_state(torch.stack(losses).sum(), rows)
        for targets, outputs, sample_weight in done:
            self._objective.update_metrics(targets, outputs, sample_weight)
        self._added.values = logged
        self._added.update_metrics()
        return Logs(self.get_metrics_result)

    # -- what ends an epoch and a training ----------------------------------------------------------------

    def _after_flush(self, validate: Callable[[int], dict[str, float]]) -> Callable[[int], dict[str, float]]:
        """Make the update of gradients that were gathered and not used yet, when an epoch ends."""

        def flush_and_validate(epoch: int) -> dict[str, float]:
            if self.optimizer.built:
                self.optimizer.flush()
            return validate(epoch)

        return flush_and_validate

    def _finish_training(self) -> None:
        """Write averages of the weights into the weights, if the optimizer keeps them."""
        if self.optimizer.built:
            self.optimizer.finalize_variable_values()

    # -- the same steps with tensors alone, to be compiled -------------------------------------------------

    def build_optimizer(self) -> None:
        """Bind the optimizer to the parameters of the module, by name."""
        self.optimizer.build(self.module.named_parameters())

    def _train_graph(self, batch: Batch, learning_rate: Tensor, number: Tensor) -> list[Tensor]:
        self.optimizer.update(self._gradients(batch), learning_rate, number)
        return []

    def _gather_graph(
        self, batch: Batch, learning_rate: Tensor, number: Tensor, weight: Tensor, closes: bool
    ) -> list[Tensor]:
        self.optimizer.accumulate(self._gradients(batch), self._rows(batch.inputs))
        if closes:
            self.optimizer.update_accumulated(learning_rate, number, weight)
            self.optimizer.zero_accumulated()
        return []

    def _gradients(self, batch: Batch) -> Sequence[Tensor | None]:
        """Return the gradients of one batch, and take its loss and outputs into the metrics."""
        inputs, targets, sample_weight = batch.inputs, batch.targets, batch.sample_weight
        loss, outputs = self.forward_loss(inputs, targets, sample_weight)
        scaled = self.optimizer.scale_loss(loss)
        gradients: Sequence[Tensor | None]
        gradients = torch.autograd.grad(scaled, self.optimizer.parameters, allow_unused=True)
        self._objective.tracker.update_state(loss, self._rows(inputs))
        self.compute_metrics(inputs, targets, outputs, sample_weight)
        return gradients

    def _test_graph(self, batch: Batch) -> list[Tensor]:
        inputs, targets, sample_weight = batch.inputs, batch.targets, batch.sample_weight
        loss, outputs = self.forward_loss(inputs, targets, sample_weight)
        self._objective.tracker.update_state(loss, self._rows(inputs))
        self.compute_metrics(inputs, targets, outputs, sample_weight)
        return []

    def _predict_graph(self, batch: Batch) -> list[Tensor]:
        return tree.leaves(self._call(batch.inputs))

    # -- each kind of step, in the forms that an execution may choose from ----------------------------------

    def _train_pieces(self, watched: bool, planned: int | None) -> Pieces:
        return Pieces(
            "train",
            self._step("train_step" if self._microbatches is None else "_train_in_parts", watched),
            last,
            finish=self._logs(watched),
            counts=self.optimizer.counts,
            recount=self.optimizer.recount,
            watched=watched,
            planned=planned,
            obstacle=self._train_obstacle(),
            instead=self.compile_call,
            **self._update_pieces(),
        )

    def _update_pieces(self) -> dict[str, Any]:
        """Return how updates are counted: every step makes one, or ends or goes on with a window of gradients."""
        optimizer = self.optimizer
        if optimizer.gradient_accumulation_steps is None:
            return {"numbers": lambda rows: optimizer.begin_update(), "graph": self._train_graph}
        kinds = lambda steps: tuple((closes,) for closes in optimizer.closes(steps))  # noqa: E731
        return {"numbers": optimizer.begin_gathered, "kinds": kinds, "graph": self._gather_graph}

    def _test_pieces(self, watched: bool, unheard: bool = False) -> Pieces:
        own = overridden(self, Steps, "test_step", "forward_loss", "compute_loss", "compute_metrics")
        is_plain = own is None and not self._added.gauges
        return Pieces(
            "test",
            self._step("test_step", watched),
            last,
            self._test_graph,
            self._logs(watched),
            watched=watched,
            obstacle=self._own_part("test_step"),
            together=self._test_together if unheard and is_plain else None,
            room=self._test_room,
            instead=self.compile_call,
        )

    def _predict_pieces(self, watched: bool, unheard: bool = False) -> Pieces:
        own = overridden(self, Steps, "predict_step")
        return Pieces(
            "predict",
            self.predict_step if own is None else self._own_predict_step,
            concatenated,
            self._predict_graph,
            unpacked,
            watched=watched,
            obstacle=own,
            together=self._predict_together if unheard and own is None else None,
            room=lambda outputs: _room(tree.nbytes(outputs)),
            instead=self.compile_call,
        )

    def _train_obstacle(self) -> str | None:
        in_parts = "`microbatch` splits the batches" if self._microbatches is not None else None
        return self._own_part("train_step") or in_parts or self.optimizer.obstacle

    def _own_part(self, step: str) -> str | None:
        return overridden(self, Steps, step, "compute_metrics")

    def _step(self, name: str, settle: bool) -> Step:
        """Return a step that gives logs: an overridden one may return any mapping."""
        step: Step = getattr(self, name)
        if overridden(self, Steps, name) is not None:
            step = self._own_step(step)
        if settle:
            return lambda batch: Logs.of(step(batch)).settle()
        return step if self._own_part(name) is None else lambda batch: Logs.of(step(batch))

    def _own_step(self, step: Step) -> Step:
        """Prepare for a step of the user's: batches as Keras gives them, and an optimizer that may be called."""

        def run(batch: Batch) -> Any:
            if not (self.optimizer.built or self.has_lazy_weights):
                self.build_optimizer()
            added = self._added
            previous = added.enter()
            added.is_active = added.is_counted = False  # Calls of the model itself begin anew, as in Keras.
            try:
                results = step(unwrapped(batch))
                if not added.is_counted or added.values:
                    added.update_metrics()
                added.losses.clear()
                return results
            finally:
                added.leave(previous)

        return run

    def _own_predict_step(self, batch: Batch) -> Any:
        return self.predict_step(unwrapped(batch))

    def _logs(self, settle: bool) -> Callable[..., Logs]:
        """Return what gives the logs after a step whose results lie in the metrics."""
        if settle:
            return lambda *_: Logs(self.get_metrics_result).settle()
        return lambda *_: Logs(self.get_metrics_result)


def _room(output_bytes: int) -> int:
    """Return how many steps with so large an output are done together."""
    return max(1, min(_MOST_TOGETHER, _BYTES_TOGETHER // max(1, output_bytes)))


class CompiledMetrics:
    """The metrics of `compile`, to be updated together."""

    def __init__(self, update: Callable[[Any, Any, Any], None]) -> None:
        """Update with `update(targets, outputs, sample_weight)`."""
        self._update = update

    def update_state(self, y: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Update every metric with one batch."""
        self._update(y, y_pred, sample_weight)

"""The loops that a user of PyTorch would write by hand, from that of the tutorials to one with CUDA graphs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.gpu.cases import GpuCase
from benchmarks.gpu.clock import Clock


class Step:
    """A network, its optimizer and its sums of the loss and of the right answers, all on the device."""

    def __init__(self, case: GpuCase, device: torch.device, **optimizer: Any) -> None:
        self.case, self.device = case, device
        self.network = case.fresh_network(device).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-3, **optimizer)
        self.loss_sum = torch.zeros((), device=device)
        self.right = torch.zeros((), dtype=torch.int64, device=device)

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the number of right answers."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.case.autocast):
            logits = self.network(inputs)
            loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return loss, (logits.detach().argmax(-1) == labels).sum()

    def update(self, loss: Tensor) -> None:
        """Make one update."""
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def record(self, loss: Tensor, right: Tensor) -> None:
        """Add to the sums, without reading them."""
        self.loss_sum.add_(loss.detach())
        self.right.add_(right)


class ResidentData:
    """Data on the device, and the rows of the batches of one pass."""

    def __init__(self, case: GpuCase, device: torch.device) -> None:
        self.x, self.y = (part.to(device) for part in case.data)
        self._batch, self._device = case.batch, device

    def rows(self) -> tuple[Tensor, ...]:
        """Return the rows of each batch in a new order."""
        return torch.randperm(len(self.x), device=self._device).split(self._batch)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of some rows."""
        return self.x.index_select(0, rows), self.y.index_select(0, rows)


def tutorial(case: GpuCase, device: torch.device, clock: Clock) -> None:
    """As in tutorials: a DataLoader over a TensorDataset, and `.item()` at every step."""
    step = Step(case, device)
    loader = DataLoader(TensorDataset(*case.data), case.batch, shuffle=True)
    for _ in range(clock.passes):
        clock.start()
        running_loss = 0.0
        for inputs, labels in loader:
            inputs, labels = inputs.to(device), labels.to(device)
            step.optimizer.zero_grad()
            loss, right = step.forward(inputs, labels)
            loss.backward()
            step.optimizer.step()
            running_loss += loss.item()
            step.right.add_(right)
        clock.stop()


def tuned(case: GpuCase, device: torch.device, clock: Clock) -> None:
    """Whole batches indexed on the device, a fused optimizer, nothing read before the end of a pass."""
    step, data = Step(case, device, fused=True), ResidentData(case, device)
    _run(step, data, step.forward, clock)


def compiled(case: GpuCase, device: torch.device, clock: Clock) -> None:
    """The tuned loop with forward and loss compiled by `torch.compile(mode="reduce-overhead")`."""
    step, data = Step(case, device, fused=True), ResidentData(case, device)
    # The rehearsal on a CPU does not wait for a compiler.
    how: dict[str, Any] = {"mode": "reduce-overhead"} if device.type == "cuda" else {"backend": "eager"}
    _run(step, data, torch.compile(step.forward, **how), clock)


def graphed(case: GpuCase, device: torch.device, clock: Clock) -> None:
    """The tuned loop with the whole step captured in one CUDA graph."""
    capturable: dict[str, Any] = {"capturable": True} if device.type == "cuda" else {}
    step, data = Step(case, device, fused=True, **capturable), ResidentData(case, device)
    chosen = torch.zeros(case.batch, dtype=torch.int64, device=device)

    def whole_step() -> None:
        loss, right = step.forward(*data.batch(chosen))
        step.update(loss)
        step.record(loss, right)

    replay = _captured(whole_step, device)
    for _ in range(clock.passes):
        clock.start()
        for rows in data.rows():
            chosen.copy_(rows)
            replay()
        clock.stop()
        step.loss_sum.item()


def _run(
    step: Step, data: ResidentData, forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], clock: Clock
) -> None:
    for _ in range(clock.passes):
        clock.start()
        for rows in data.rows():
            torch.compiler.cudagraph_mark_step_begin()
            loss, right = forward(*data.batch(rows))
            step.update(loss)
            step.record(loss, right)
        clock.stop()
        step.loss_sum.item()


def _captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return a function that replays a step, captured after a few runs on a stream beside."""
    if device.type != "cuda":
        return step
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay

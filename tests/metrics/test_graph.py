"""Every update is one graph, and none reads a tensor on the host."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from torchfit import metrics

cases = runpy.run_path(str(Path(__file__).with_name("members.py")))
MEMBERS = [*cases["MEMBERS"], *cases["EXTENDED"]]


def tensors(member, seed):
    return [torch.from_numpy(np.ascontiguousarray(part)) for part in member.data(seed)]


@pytest.mark.graphs
@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_update_is_one_graph(member):
    metric = getattr(metrics, member.name)(**member.arguments)
    eager = getattr(metrics, member.name)(**member.arguments)
    metric.build(*tensors(member, 0))
    weights = torch.ones(len(member.data(0)[0]), dtype=torch.int64)
    torch._dynamo.reset()
    compiled = torch.compile(metric.update_state, backend="eager", fullgraph=True)
    for more in ([], [weights]):
        compiled(*tensors(member, 0), *more)
        eager.update_state(*tensors(member, 0), *more)
    for traced, plain in zip(metric.variables, eager.variables, strict=True):
        torch.testing.assert_close(traced.detach(), plain.detach())


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_update_and_result_read_nothing_on_the_host(member):
    metric = getattr(metrics, member.name)(**member.arguments)
    metric.build(*tensors(member, 0))
    with _NoHostReads():
        metric.update_state(*tensors(member, 0))
        metric.result()


class _NoHostReads(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a tensor was read on the host"
        return function(*args, **(kwargs or {}))

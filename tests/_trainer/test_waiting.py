"""Nothing copies from the host in a way that waits for the device; the device is torch's meta device here."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from torchfit._trainer.loss_tracking import LossMean


class NoBlockingCopies(TorchDispatchMode):
    """Refuses copies between devices, except those that do not wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default:
            self.check(args[0].device, kwargs.get("device") or args[0].device, kwargs.get("non_blocking", False))
        elif function is torch.ops.aten.copy_.default:
            self.check(args[1].device, args[0].device, kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
        return function(*args, **kwargs)

    def check(self, source, target, does_not_wait):
        assert source == target or does_not_wait, f"a copy from {source} to {target} waits for the device"


def test_the_mode_sees_copies():
    with NoBlockingCopies(), pytest.raises(AssertionError, match="from cpu to meta waits"):
        torch.ones(2).to("meta")
    with NoBlockingCopies():
        torch.ones(2).to("meta", non_blocking=True)


@pytest.mark.parametrize("kinds", ["numbers", "tensors", "both"])
def test_the_mean_of_losses_is_added_up_on_the_device(kinds):
    with torch.device("meta"):
        mean, loss, tensor = LossMean(), torch.ones(()), torch.ones(())
    with NoBlockingCopies():
        for batch in range(200):
            is_number = kinds == "numbers" or (kinds == "both" and batch % 2)
            mean.add(loss, 32 if is_number else tensor)
        assert mean.result().device.type == "meta"

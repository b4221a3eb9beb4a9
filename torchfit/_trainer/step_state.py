"""`StepState`: what the phases of a step need besides the model."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchfit._trainer.auxiliary import AuxiliaryTerms
from torchfit._trainer.base_model import BaseModel, is_metric, overridden_method
from torchfit._trainer.module_call import ModuleCaller
from torchfit._trainer.objective import Objective, UncompiledObjective


class LossModules(nn.ModuleDict):
    """The modules of the losses of `compile` and `add_loss`, whose parameters are trained with those of the model."""


class StepState:
    """What the phases of a step need besides the model.

    Attributes:
        call: Calls the module with the inputs of a batch.
        objective: The losses and metrics of all outputs.
        auxiliary: The losses and metrics added with `add_loss` and `add_metric`.
        passes_training: Whether `compute_loss`, which may be an override, takes the argument `training`.
        data_name: The argument that the data of the current loop came as, for messages.
        unit: The number 1 on the device, for `compat.backward`.
    """

    def __init__(
        self, call: ModuleCaller, auxiliary: AuxiliaryTerms, compute_loss: Callable[..., Any], device: torch.device
    ) -> None:
        self.call, self.auxiliary = call, auxiliary
        self.unit = torch.ones((), device=device)
        self.data_name = "x"
        parameters = inspect.signature(compute_loss).parameters
        self.passes_training = "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self.objective: Objective | UncompiledObjective = UncompiledObjective()

    def named_parameters(self, model: BaseModel) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters of the module, of losses, and of modules in attributes of the model, by name.

        A `train_step` of the user's decides itself about those in attributes, such as the teacher of a distillation.
        """
        named = [*model.module.named_parameters()]
        losses = (*self.objective.loss_modules(), *self.auxiliary.modules)
        if any(True for module in losses for _ in module.parameters()):
            named += self.loss_modules(model).named_parameters()
        if overridden_method(model, "train_step") is None:
            named += self.attribute_modules(model).named_parameters()
        return named

    def loss_modules(self, model: BaseModel) -> LossModules:
        """Return the losses that are modules, or hold some beside those of the model, as `loss_1`, `loss_2`, …."""
        found = (*self.objective.loss_modules(), *self.auxiliary.modules)
        known = set(map(id, model.module.modules())) if found else set()
        own = [module for module in found if id(module) not in known]
        return LossModules({f"loss_{number}": module for number, module in enumerate(own, 1)})

    @staticmethod
    def attribute_modules(model: BaseModel) -> nn.Module:
        """Return the modules in attributes of a model that is around another module, without its metrics, in one."""
        found = nn.Module()
        for name, child in model.named_children() if model.module is not model else ():
            if name != "module" and not is_metric(child):
                found.add_module(name, child)
        return found

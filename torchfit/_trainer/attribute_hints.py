"""What to write here instead of an attribute that other libraries' models have."""

from torchfit._utils.names import near_names
from torchfit._utils.wrapping import ModuleWrapper

_FIT = "`fit` takes generators, Datasets and loaders as well"
_CLASSES = "write model.predict(x).argmax(-1), or (model.predict(x) > 0.5) for one unit of probabilities"
_STEP = "override `train_step`, `test_step` and `predict_step`, or write `compute_loss`"
_TRAINER = "there is no trainer beside the model: `compile` and `fit` take its arguments"
_CALLS = "pass a name, an object or a function to `compile`"
_ESTIMATOR = "torchfit.sklearn.Classifier and Regressor have it"
_SHAPES = "model.summary(input_shape=…) shows the shapes, and `example_inputs` has one sample after the first batch"

_HINTS = {
    # Keras
    "layers": "iterate over model.module.named_children()",
    "get_layer": "write model.module.get_submodule(name), or an attribute of model.module",
    "add": "put layers into an nn.Sequential, and wrap that: Model(nn.Sequential(…))",
    "pop": "put layers into an nn.Sequential, and wrap that: Model(nn.Sequential(…))",
    "fit_generator": _FIT,
    "evaluate_generator": "`evaluate` takes generators, Datasets and loaders as well",
    "predict_generator": "`predict` takes generators, Datasets and loaders as well",
    "predict_classes": _CLASSES,
    "inputs": "model.input_names has the names",
    "outputs": "model.predict(x) returns them",
    "input_shape": _SHAPES,
    "output_shape": _SHAPES,
    "get_config": "model.save(path) stores the architecture; model.get_compile_config() describes what was compiled",
    "to_json": "model.save(path) stores the architecture",
    "to_yaml": "model.save(path) stores the architecture",
    "loss_fn": "model.loss has what was compiled, model.compute_loss computes it",
    "build_from_config": "torchfit.models.load_model(path) rebuilds a saved model",
    "quantize": "torch.ao.quantization works on model.module",
    "summary_plot": "torchfit.utils.plot_model(model) draws it",
    # scikit-learn
    "predict_proba": f"model.predict(x) returns what the module returns (apply softmax to logits); {_ESTIMATOR}",
    "predict_log_proba": f"model.predict(x) returns what the module returns; {_ESTIMATOR}",
    "decision_function": "model.predict(x) returns what the module returns",
    "score": f"model.evaluate(x, y) returns the loss and the metrics; {_ESTIMATOR}",
    "partial_fit": "call `train_on_batch`, or `fit` again: it continues with the weights there are",
    "fit_predict": "call `fit`, then `predict`",
    "fit_transform": "call `fit`, then `predict`",
    "transform": "model.predict(x) returns what the module returns",
    "classes_": f"classes are numbered from 0 to the number of outputs less 1; {_ESTIMATOR}",
    "get_params": f"model.get_compile_config() returns the arguments of `compile`; {_ESTIMATOR}",
    "set_params": f"call `compile` again; {_ESTIMATOR}",
    # Lightning
    "training_step": _STEP,
    "validation_step": _STEP,
    "configure_optimizers": _CALLS,
    "trainer": _TRAINER,
    "save_hyperparameters": "model.save(path) stores the arguments of `compile`",
    "hparams": "model.get_compile_config() returns the arguments of `compile`",
    "log": "add_metric(value, name=…) in a `forward`, or a metric in `compile`",
    "log_dict": "add_metric(value, name=…) in a `forward`, or a metric in `compile`",
    "load_from_checkpoint": "torchfit.models.load_model(path), or model.load_weights(path)",
    "to_onnx": 'model.export(path, format="onnx")',
    "to_torchscript": 'model.export(path, format="torchscript")',
    "freeze": "torchfit.utils.freeze(model), or parts by name: freeze(model, 'encoder')",
    "unfreeze": "torchfit.utils.unfreeze(model), or parts by name: unfreeze(model, 'head')",
    "current_epoch": "a callback gets the epoch in `on_epoch_begin`",
    "global_step": "model.optimizer.iterations counts the updates",
    "device": "next(model.parameters()).device; choose one with Model(module, device=…)",
    # fastai, skorch, Hugging Face
    "fit_one_cycle": "pass torch.optim.lr_scheduler.OneCycleLR to the callback TorchLRScheduler",
    "fine_tune": "the callback FineTuning trains the head first, and the rest from an epoch on",
    "freeze_to": "torchfit.utils.freeze(model, 'name', …) freezes parts by name",
    "learn": _TRAINER,
    "recorder": "`fit` returns a History: history.plot(), history.to_frame()",
    "get_preds": "call `predict`",
    "show_results": "torchfit.utils.worst_samples(model, x, y) finds the samples with the highest losses",
    "module_": "model.module is the wrapped module",
    "save_pretrained": "model.module.save_pretrained(…) if it is one of Hugging Face, else model.save(path)",
    "push_to_hub": "model.module.push_to_hub(…) if it is one of Hugging Face",
}


class MissingAttribute:
    """The text of the error for an attribute that a model has not, composed when it is shown: `hasattr` is frequent."""

    def __init__(self, model: ModuleWrapper, name: str) -> None:
        self._model, self._name = model, name

    def __str__(self) -> str:
        """Return the text, with the way out if one is known."""
        model, name = self._model, self._name
        text = f"{type(model).__name__!r} object has no attribute {name!r}"
        if name.startswith("_") or hasattr(type(model), name):  # a property of this name failed
            return text
        if name in _HINTS:
            return f"{text}. Instead: {_HINTS[name]}."
        if model.module is not model and hasattr(model.module, name):
            return f"{text}, but the module that it wraps has: model.module.{name}."
        near = near_names(name, [known for known in dir(type(model)) if not known.startswith("_")])
        return f"{text}. Did you mean {' or '.join(map(repr, near))}?" if near else text

from torchfit.callbacks import Callback
from torchfit.callbacks.base import HOOK_ALIASES, HOOKS


def test_every_hook_does_nothing_by_default():
    for hook in [*HOOKS, *HOOK_ALIASES.values()]:
        arguments = (0,) if "batch" in hook or "epoch" in hook else ()
        assert getattr(Callback(), hook)(*arguments) is None


def test_the_aliases_are_called_through_the_first_names():
    class Old(Callback):
        def on_batch_begin(self, batch, logs=None):
            self.begun = batch

        def on_batch_end(self, batch, logs=None):
            self.ended = batch

    old = Old()
    old.on_train_batch_begin(1, {})
    old.on_train_batch_end(2, {})
    assert (old.begun, old.ended) == (1, 2)


def test_model_and_params_are_there_without_a_constructor():
    class Own(Callback):
        def __init__(self):
            pass

    own = Own()
    assert own.model is None
    assert own.params.get("epochs") is None
    own.set_model("model")
    own.set_params({"epochs": 3})
    assert (own.model, own.params) == ("model", {"epochs": 3})


def test_the_state_is_empty_by_default():
    Callback().load_state_dict({})
    assert Callback().state_dict() == {}

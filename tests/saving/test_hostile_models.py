"""Files of models cannot ask for more time or memory than their own contents need, nor run anything."""

import copy

import pytest
from torch import nn

import torchfit
from torchfit._saving.module_deserializer import check_patterns
from torchfit._serialization import archive
from torchfit.models import load_model


class Custom(nn.Module):
    """A class that is built by its constructor."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, size)

    def get_config(self):
        return {"size": self.layer.in_features}


class Plain(nn.Module):
    """A class without a configuration."""

    def __init__(self, size):
        super().__init__()
        raise AssertionError


def node(name="Identity", module="torch.nn", **parts):
    empty = {"attributes": {}, "parameters": {}, "buffers": {}, "unsaved": [], "children": {}}
    return {"class": {"name": name, "module": module, "registered": None}, **(parts or empty)}


def mapping(**values):
    return {"#": "dict", "items": [list(item) for item in values.items()]}


@pytest.fixture
def refusal(tmp_path):
    """Return a function that changes the file of a model, and returns how it is refused."""
    path = tmp_path / "model"
    model = torchfit.Model(nn.Sequential(nn.Linear(2, 1), nn.LSTM(2, 2)), device="cpu")
    model.compile("adam", "mse", metrics=["mae"])
    model.save(path)
    content = archive.read(path)

    def change(edit, **options):
        changed = copy.deepcopy(content)
        edit(changed)
        archive.write(path, changed)
        with pytest.raises(ValueError, match=str(path)) as caught:
            load_model(path, custom_objects={"Custom": Custom, "Plain": Plain}, **options)
        return str(caught.value)

    return change


def nodes(*given):
    def edit(content):
        content["architecture"].update(root=0, nodes=list(given))

    return edit


def metrics(*given):
    def edit(content):
        content["compiled"]["arguments"]["metrics"] = list(given)

    return edit


def test_constructors_of_torch_are_never_called(refusal):
    config = mapping(in_features=40_000, out_features=20_000)
    assert "Linear has no get_config()" in refusal(nodes(node("Linear", config=config)))


def test_constructors_of_classes_without_a_config_are_never_called(refusal):
    found = refusal(nodes(node("Plain", "elsewhere", config=mapping(size=1))))
    assert "Plain has no get_config()" in found


def test_constructors_get_no_more_memory_than_the_contents_justify(refusal):
    assert "much more memory" in refusal(nodes(node("Custom", "elsewhere", config=mapping(size=100_000))))


def test_layers_of_recurrent_networks_must_be_there(refusal):
    def edit(content):
        layer = next(each for each in content["architecture"]["nodes"] if each["class"]["name"] == "LSTM")
        layer["attributes"].update(num_layers=10**9, _all_weights=[[1]])

    assert "without the parameters of its layers" in refusal(edit)


def test_modules_that_are_in_each_other_twice_and_again(refusal):
    chain = [node() for _ in range(40)]
    for number, each in enumerate(chain[:-1]):
        each["children"] = {"a": number + 1, "b": number + 1}
    assert "occur too often in each other" in refusal(nodes(*chain))


def test_modules_that_contain_themselves(refusal):
    chain = [node(), node()]
    chain[0]["children"], chain[1]["children"] = {"a": 1}, {"a": 0}
    assert "contains itself" in refusal(nodes(*chain))


def test_modules_in_modules_in_modules(refusal):
    chain = [node() for _ in range(3000)]
    for number, each in enumerate(chain[:-1]):
        each["children"] = {"a": number + 1}
    assert "RecursionError" in refusal(nodes(*chain))


METRICS = {
    "thresholds": ("AUC", {"num_thresholds": 5 * 10**8}),
    "classes": ("MeanIoU", {"num_classes": 30_000}),
    "many classes": ("MeanIoU", {"num_classes": 10**6}),
}


@pytest.mark.parametrize(("name", "config"), METRICS.values(), ids=METRICS)
def test_metrics_of_absurd_sizes(refusal, name, config):
    found = refusal(metrics(mapping(class_name=name, config=mapping(**config))))
    assert "much more memory" in found or "which is more than" in found
    assert "compile=False" in found


def test_metrics_of_absurd_sizes_in_modules(refusal):
    config = mapping(class_name="AUC", config=mapping(num_thresholds=10**9))
    assert "which is more than" in refusal(nodes(node("AUC", "torchfit.metrics", metric=config)))


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "a*a*a*b", "x" * 2000])
def test_regular_expressions_that_take_very_long(refusal, pattern):
    def edit(content):
        config = mapping(exclude_from_weight_decay=["bias", pattern])
        inner = mapping(class_name="Adam", config=config)
        optimizer = mapping(class_name="LossScaleOptimizer", config=mapping(inner_optimizer=inner))
        content["compiled"]["arguments"]["optimizer"] = optimizer

    assert "regular expression that may take very long" in refusal(edit)


def test_regular_expressions_as_they_are_used():
    config = {"exclude_from_weight_decay": ["bias", r"^0\.norm\+\.weight$", "(bias|norm)", "layer[0-9]+", "norm.*bias"]}
    check_patterns({"config": config})


def test_names_that_are_very_long(refusal):
    assert "very long" in refusal(nodes({**node(), "children": {"a" * 600: 1}}, node()))


def test_names_are_shown_escaped(refusal):
    found = refusal(nodes(node("Evil\x1b[31m\n\u202e", "elsewhere\x07")))
    assert r"Evil\x1b[31m\n\u202e: its class, defined in elsewhere\x07," in found
    assert all(line.isprintable() for line in found.split("\n"))


WRONG = {
    "root": lambda content: content["architecture"].update(root=-1),
    "nodes": lambda content: content["architecture"].update(nodes=None),
    "tensors": lambda content: content["architecture"].update(tensors=[]),
    "wrapper": lambda content: content["architecture"].update(wrapper=99),
    "model": lambda content: content.update(model=[1]),
    "device": lambda content: content["model"].update(name=7, dtype_policy="float7"),
    "state": lambda content: content.update(state={}),
    "frozen": lambda content: content.update(frozen=[[1]]),
    "compiled": lambda content: content.update(compiled={}),
    "argument": lambda content: content["compiled"]["arguments"].update({"evil\x1b": 1}),
    "optimizer": lambda content: content.update(optimizer={"iterations": "x"}),
    "added": lambda content: content.update(added={"terms": [{"method": "__init__", "arguments": {}}]}),
    "version": lambda content: content.update(version="1"),
    "later": lambda content: content.update(version=99, written_by=None),
}


@pytest.mark.parametrize("edit", WRONG.values(), ids=WRONG)
def test_parts_that_are_not_what_they_should_be(refusal, edit):
    refusal(edit)


def test_methods_of_models_cannot_be_called(refusal):
    plain = {"terms": [{"method": "save", "arguments": mapping(path="evil")}], "nodes": [], "tensors": []}
    assert "no method 'save'" in refusal(lambda content: content.update(added=plain))


def test_arguments_of_models_cannot_be_chosen(refusal):
    with pytest.raises(pytest.fail.Exception):
        refusal(lambda content: content["model"].update(device="cuda:99", module=1))  # They have no effect.

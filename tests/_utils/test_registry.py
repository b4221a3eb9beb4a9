import pytest

from torchfit._utils import registry
from torchfit._utils.registry import Registry, custom_object_scope, find_custom, register_serializable, registered_name


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


class Plain:
    def __init__(self, size=1):
        self.size = size

    def get_config(self):
        return {"size": self.size}


def double(value):
    return 2 * value


FAMILY = Registry("thing", "torchfit.things", {"double": double, "twice": double, "Plain": Plain})


def test_registered_names_are_found_bare_and_full():
    register_serializable("shop", "Own")(Plain)
    assert registered_name(Plain) == "shop>Own"
    assert find_custom("shop>Own") is find_custom("Own") is Plain
    assert find_custom("Plain") is None


def test_the_last_registration_wins():
    register_serializable()(Plain)
    register_serializable("other", "Plain")(double)
    assert find_custom("Plain") is double
    assert find_custom("Custom>Plain") is Plain


def test_the_decorator_is_called_first():
    with pytest.raises(TypeError, match=r"write @register_serializable\(\)"):

        @register_serializable  # type: ignore[arg-type]
        def wrong():
            return None


def test_classes_without_a_config_are_refused():
    with pytest.raises(ValueError, match=r"the class Bare has no get_config"):

        @register_serializable()
        class Bare:
            pass


def test_scopes_nest_and_end():
    with custom_object_scope({"a": 1}), custom_object_scope({"b": 2}):
        assert (find_custom("a"), find_custom("b")) == (1, 2)
    assert find_custom("a") is None


def test_what_is_handed_over_comes_first():
    register_serializable()(double)
    with custom_object_scope({"double": Plain}):
        assert find_custom("double") is Plain
        assert find_custom("double", {"double": str}) is str


def test_get():
    assert FAMILY.get(None) is None
    assert FAMILY.get("TWICE") is double
    assert FAMILY.get("Plain").size == FAMILY.get(Plain).size == 1
    assert FAMILY.get({"class_name": "Plain", "config": {"size": 3}}).size == 3


def test_unknown_names():
    with pytest.raises(ValueError, match=r"Unknown thing: 'dubble'\. Did you mean 'double'\?"):
        FAMILY.get("dubble")


@pytest.mark.parametrize("config", [{"a": 1}, 3, None])
def test_configs_that_are_none(config):
    with pytest.raises(ValueError, match="Could not read the thing config"):
        FAMILY.deserialize(config)


def test_round_trips():
    for thing in (Plain(4), double):
        config = FAMILY.serialize(thing)
        assert FAMILY.serialize(FAMILY.deserialize(config, {"Plain": Plain})) == config


def test_what_cannot_be_named_cannot_be_serialized():
    with pytest.raises(ValueError, match="Could not serialize 3 as a thing"):
        FAMILY.serialize(3)

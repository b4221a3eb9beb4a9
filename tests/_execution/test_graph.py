import contextlib
import weakref

import pytest
import torch
from torch import nn

from torchfit import metrics
from torchfit._execution.graph import GraphError, GraphRunner
from torchfit._utils import compat

pytestmark = [
    pytest.mark.slow,
    pytest.mark.graphs,
]


def test_a_graph_replays_with_new_arguments_and_changes_state_in_place():
    state = torch.zeros(3)

    def add_and_double(tensors):
        state.add_(tensors[0])
        return [state * 2]

    graph = GraphRunner(add_and_double)
    for calls in (1, 2, 3):  # compiled, guarded, replayed
        (doubled,) = graph([torch.full((3,), 2.0)], check_guards=False)
        assert state.tolist() == [2.0 * calls] * 3
        assert doubled.tolist() == [4.0 * calls] * 3
    assert graph.is_steady


def test_a_checked_call_sees_what_has_changed_and_an_unchecked_one_does_not_look():
    layer = nn.Dropout(0.0)
    graph = GraphRunner(lambda tensors: [layer(tensors[0])])
    ones = torch.ones(4)
    assert [graph([ones])[0].tolist() for _ in range(2)] == [[1.0] * 4] * 2
    layer.p = 1.0
    assert graph([ones], check_guards=False)[0].tolist() == [1.0] * 4
    assert graph([ones], check_guards=True)[0].tolist() == [0.0] * 4
    assert graph([ones], check_guards=False)[0].tolist() == [0.0] * 4


@pytest.mark.usefixtures("traced_only")
def test_what_changes_with_every_call_is_looked_at_in_every_call():
    kept = [torch.zeros(1)]

    def swap(tensors):
        previous, kept[0] = kept[0], tensors[0] * 2
        return [previous + tensors[0]]

    graph = GraphRunner(swap)
    found = [graph([torch.tensor([float(number)])], check_guards=False)[0].item() for number in (1, 2, 3, 4)]
    assert found == [1.0, 4.0, 7.0, 10.0]
    assert not graph.is_steady


@pytest.mark.usefixtures("traced_only")
def test_a_number_that_changes_again_and_again_ends_recompilations():
    layer = nn.Dropout(0.0)
    graph = GraphRunner(lambda tensors: [layer(tensors[0])])
    for p in (0.0, 0.1, 0.2, 0.3):
        layer.p = p
        graph([torch.ones(1)])
    layer.p = 0.4
    with pytest.raises(GraphError, match=r"^it was compiled 4 times, because `layer\.p` changes$"):
        graph([torch.ones(1)])


def test_state_of_metrics_may_be_handed_to_a_kernel():
    metric = metrics.Metric()
    products = metric.add_weight((2, 2))

    def multiply(tensors):
        products.add_(tensors[0].T @ tensors[0])
        return [products @ tensors[0].T]

    graph = GraphRunner(multiply)
    graph([torch.ones(3, 2)])
    (product,) = graph([torch.ones(3, 2)], check_guards=False)
    assert products.tolist() == [[6.0, 6.0], [6.0, 6.0]]
    assert product[0].tolist() == [12.0, 12.0, 12.0]


def test_gradients_are_part_of_a_graph():
    weight = nn.Parameter(torch.tensor([2.0]))

    def descend(tensors):
        (gradient,) = torch.autograd.grad((weight * tensors[0]).sum() ** 2, [weight])
        with torch.no_grad():
            weight.sub_(gradient, alpha=0.1)
        return []

    graph = GraphRunner(descend)
    graph([torch.tensor([1.0])])  # d/dw w² = 4, so that 2 - 0.4
    assert weight.item() == pytest.approx(1.6)
    graph([torch.tensor([1.0])], check_guards=False)  # 1.6 - 0.32
    assert weight.item() == pytest.approx(1.28)


def test_wrappers_that_change_nothing_are_left_out():
    graph = GraphRunner(lambda tensors: [tensors[0] + 1])
    graph([torch.zeros(2)])
    code = graph._recorder.recording.code
    assert code.run is code._inner
    assert graph([torch.ones(2)], check_guards=False)[0].tolist() == [2.0, 2.0]


def test_wrappers_that_change_something_stay():
    graph = GraphRunner(lambda tensors: [tensors[0].add_(1).view(2, 2)])  # a view of the argument itself, made outside
    graph([torch.zeros(4)])
    code = graph._recorder.recording.code
    assert code.run is not code._inner
    ones = torch.ones(4)
    (view,) = graph([ones], check_guards=False)
    assert view.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert view.data_ptr() == ones.data_ptr()


def test_a_released_graph_holds_no_tensor_and_runs_again():
    graph = GraphRunner(lambda tensors: [tensors[0] + 1])
    batch = torch.zeros(2)
    is_alive = weakref.ref(batch)
    graph([batch])
    del batch
    graph.release()
    assert is_alive() is None
    assert graph([torch.ones(2)], check_guards=False)[0].tolist() == [2.0, 2.0]


def test_many_graphs_of_one_function_do_not_use_up_the_compilers_patience():
    def plus(number):
        return lambda tensors: [tensors[0] + number]

    assert [GraphRunner(plus(number))([torch.zeros(1)])[0].item() for number in range(12)] == list(range(12))


@pytest.mark.parametrize(
    ("function", "loads"),
    [
        (lambda x: x.softmax(-1) * 2, False),
        (lambda x: x @ x, True),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x), True),
    ],
)
def test_patterns_of_attention_are_loaded_for_graphs_that_may_contain_it(function, loads, monkeypatch):
    entered = []
    monkeypatch.setattr(
        compat, "without_attention_patterns", lambda: contextlib.nullcontext(entered.append("without patterns"))
    )
    x = torch.rand(2, 4, 4)
    (result,) = GraphRunner(lambda tensors: [function(tensors[0])])([x])
    torch.testing.assert_close(result, function(x))
    assert bool(entered) is not loads


def test_instructions_that_the_cpp_compiler_does_not_know_are_found_out(monkeypatch):
    errors = pytest.importorskip("torch._inductor.exc")
    inductor = compat.inductor()
    compile_fx, tried = inductor.compile_fx, []

    def reject_extensions(*arguments, **options):
        if "config_patches" in options:  # It calls itself without.
            tried.append({"cpp.vec_isa_ok", "cpp_wrapper"} & options["config_patches"].keys())
            if "cpp.vec_isa_ok" in options["config_patches"]:
                raise errors.InductorError(errors.CppCompileError(["g++"], "unrecognized option"), None)
        return compile_fx(*arguments, **options)

    monkeypatch.setattr(inductor, "compile_fx", reject_extensions)
    assert GraphRunner(lambda tensors: [tensors[0] + 1])([torch.ones(2)])[0].tolist() == [2.0, 2.0]
    assert tried == [{"cpp.vec_isa_ok", "cpp_wrapper"}, {"cpp_wrapper"}]


def test_a_graph_is_compiled_without_a_precompiled_header(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS")
    assert GraphRunner(lambda tensors: [tensors[0] + 1])([torch.ones(2)])[0].tolist() == [2.0, 2.0]

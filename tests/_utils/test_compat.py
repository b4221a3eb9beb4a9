"""Private API and what stands in for it."""

import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.data import DataLoader

from torchfit._utils import compat
from torchfit._utils.compat import mapping_of, shutdown_workers

FIRST, SECOND = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])


@pytest.mark.parametrize("reduction", [compat.NONE, compat.MEAN])
@pytest.mark.parametrize(("name", "arguments"), [("mse_loss", ()), ("l1_loss", ()), ("huber_loss", (0.5,))])
def test_stand_ins(name, arguments, reduction):
    native = getattr(compat, name)(FIRST, SECOND, reduction, *arguments)
    public = getattr(compat, f"_public_{name}")(FIRST, SECOND, reduction, *arguments)
    torch.testing.assert_close(native, public)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 4.0])])
@pytest.mark.parametrize("places", [(), (5,), (4, 5), (2, 2, 2)])
def test_losses_of_log_probabilities_come_with_their_count(places, weight, reduction, monkeypatch):
    log_probs = torch.randn(6, 3, *places).log_softmax(1)
    labels = torch.randint(0, 3, (6, *places))
    labels[0] = -1
    valid = labels != -1
    counts = valid.float() if weight is None else weight[labels.clamp(min=0)] * valid
    expected = F.nll_loss(log_probs, labels, weight, ignore_index=-1, reduction=reduction), counts.sum()
    arguments = log_probs, labels, weight, getattr(compat, reduction.upper()), -1
    torch.testing.assert_close(compat.nll_loss(*arguments), expected)
    for name in ("_nll_loss", "_nll_loss_2d"):
        monkeypatch.setattr(compat, name, compat._public_nll_loss)
    torch.testing.assert_close(compat.nll_loss(*arguments), expected)


def test_workers_of_an_iterator_are_shut_down():
    loader = DataLoader(range(8), num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    iterator = iter(loader)
    next(iterator)
    shutdown_workers(loader, iterator)
    assert loader._iterator is None
    assert len(list(loader)) == 8


def test_an_iterator_without_workers_needs_no_shutdown():
    loader = DataLoader(range(8))  # type: ignore[arg-type]
    batches = iter(loader)
    shutdown_workers(loader, batches)
    assert len(list(batches)) == 8


def test_the_mapping_of_a_memory_map(tmp_path):
    array = np.memmap(tmp_path / "x.dat", "float32", "w+", shape=(4,))
    assert isinstance(mapping_of(array), mmap.mmap)
    assert mapping_of(np.zeros(3)) is None


def test_the_compiler_is_found():
    assert callable(compat.lookup_compiler_backend("inductor"))
    assert callable(compat.inductor().compile_fx)
    assert hasattr(compat.dynamo_config(), "patch")
    assert compat.takes_arguments_as_list(lambda inputs: inputs)._boxed_call  # type: ignore[attr-defined]


def test_a_torch_without_the_parts_of_the_compiler(monkeypatch):
    monkeypatch.delattr(compat.inductor(), "compile_fx_inner")
    assert compat.inductor() is None


@pytest.mark.parametrize(("decided", "options"), [(None, {"cpp.vec_isa_ok": True}), (False, {}), (True, {})])
def test_vector_instructions_are_not_probed_unless_somebody_decided(decided, options):
    config = pytest.importorskip("torch._inductor.config")
    with config.patch({"cpp.vec_isa_ok": decided}):
        assert compat.without_instruction_probes() == options


def test_a_torch_that_knows_no_probes(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._inductor.config", SimpleNamespace())
    monkeypatch.setattr("torch._inductor.config", SimpleNamespace())
    assert compat.without_instruction_probes() == {}


def test_instructions_are_found_out_again(monkeypatch):
    isa = pytest.importorskip("torch._inductor.cpu_vec_isa")
    known = isa.valid_vec_isa_list()
    assert isa.valid_vec_isa_list() is known
    compat.forget_instructions()
    assert isa.valid_vec_isa_list() is not known
    monkeypatch.delattr(isa, "valid_vec_isa_list")
    monkeypatch.delattr(isa, "supported_vec_isa_list")
    compat.forget_instructions()


@pytest.mark.parametrize(("decided", "options"), [(None, {"cpp_cache_precompile_headers": False}), ("1", {})])
def test_the_header_of_compiled_code_is_not_precompiled_unless_somebody_decided(decided, options, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", raising=False)
    if decided is not None:
        monkeypatch.setenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", decided)
    pytest.importorskip("torch._inductor.config")
    assert compat.without_precompiled_header() == options


def test_extensions_of_vector_instructions_are_not_probed(monkeypatch):
    isa = pytest.importorskip("torch._inductor.cpu_vec_isa")
    monkeypatch.setattr(isa.VecISA, "check_build", probe := Mock(return_value=False))
    compat.forget_instructions()
    try:
        compat.trust_instructions()
        isa.valid_vec_isa_list()
    finally:
        compat.forget_instructions()
    assert isa.VecISA.check_build is probe
    probe.assert_not_called()


def test_a_torch_that_lists_no_instructions(monkeypatch):
    isa = pytest.importorskip("torch._inductor.cpu_vec_isa")
    monkeypatch.delattr(isa.VecISA, "check_build")
    compat.trust_instructions()
    monkeypatch.setitem(sys.modules, "torch._inductor.cpu_vec_isa", None)
    monkeypatch.delattr("torch._inductor.cpu_vec_isa")
    compat.trust_instructions()


def test_a_rejection_by_the_cpp_compiler_is_recognized():
    errors = pytest.importorskip("torch._inductor.exc")
    rejected = errors.CppCompileError(["g++"], "no such option")
    assert compat.is_compiler_error(rejected)
    assert compat.is_compiler_error(errors.InductorError(rejected, None))
    assert not compat.is_compiler_error(RuntimeError("no such file"))


@pytest.fixture
def loaded(monkeypatch):
    """Return a list with an entry each time that the compiler loads the patterns of attention."""
    attention = pytest.importorskip("torch._inductor.fx_passes.fuse_attention")
    joint_graph = pytest.importorskip("torch._inductor.fx_passes.joint_graph")
    devices = []
    monkeypatch.setattr(attention, "_sfdp_init", devices.append)
    joint_graph.lazy_init.cache_clear()
    yield devices
    joint_graph.lazy_init.cache_clear()


def test_patterns_of_attention_are_loaded_when_they_are_needed(loaded):
    from torch._inductor.fx_passes import joint_graph

    with compat.without_attention_patterns():
        joint_graph.lazy_init(torch.device("cpu"))
    assert loaded == []
    joint_graph.lazy_init(torch.device("cpu"))
    assert loaded == [torch.device("cpu")]


def test_patterns_of_attention_are_loaded_after_an_error(loaded):
    from torch._inductor.fx_passes import joint_graph

    def fail():
        with compat.without_attention_patterns():
            joint_graph.lazy_init(torch.device("cpu"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    joint_graph.lazy_init(torch.device("cpu"))
    assert len(loaded) == 1


def test_a_torch_without_patterns_of_attention(monkeypatch):
    attention = pytest.importorskip("torch._inductor.fx_passes.fuse_attention")
    monkeypatch.delattr(attention, "_sfdp_init")
    with compat.without_attention_patterns():
        assert not hasattr(attention, "_sfdp_init")
    monkeypatch.setitem(sys.modules, "torch._inductor.fx_passes.fuse_attention", None)
    monkeypatch.delattr("torch._inductor.fx_passes.fuse_attention")
    with compat.without_attention_patterns():
        pass


def test_the_cache_of_gradients_is_left_out(monkeypatch):
    config = pytest.importorskip("torch._functorch.config")
    with compat.without_gradient_cache():
        assert not config.enable_autograd_cache
    assert config.enable_autograd_cache
    monkeypatch.setattr("torch._functorch.config", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch._functorch.config", SimpleNamespace())
    with compat.without_gradient_cache():
        pass


def traced():
    """Return a graph of torch's operators, its inputs, and the options for its compiler."""
    context = compat.new_tracing_context()
    module = make_fx(lambda x: (x * 2 + 1,))(torch.ones(3))
    return module, [context.fake_mode.from_tensor(torch.ones(3))], {"is_inference": True}, context


def test_graphs_are_pickled():
    pytest.importorskip("torch.fx._graph_pickler")
    module, examples, options, _ = traced()
    context = compat.new_tracing_context()
    read, (example,), options = compat.load_graph(compat.dump_graph((module, examples, options)), context)
    assert fx.Interpreter(read).run(torch.ones(3))[0].tolist() == [3.0, 3.0, 3.0]
    assert example.shape == (3,)
    assert options == {"is_inference": True}


def test_graphs_are_compiled_with_the_settings_and_the_context_of_another_time():
    config = pytest.importorskip("torch._inductor.config")
    with config.patch(fallback_random=True):
        settings = compat.compiler_settings()
    context = compat.new_tracing_context()
    assert not config.fallback_random
    with compat.compiling(settings, context):
        assert config.fallback_random
        assert compat.tracing_context() is context
    assert compat.tracing_context() is None


def test_code_that_is_not_on_disk_is_not_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    module, examples, options, context = traced()
    with pytest.raises(compat.NotCachedError), compat.compiling({}, context), compat.cached_code_only():
        compat.inductor().compile_fx_inner(module, examples, **options)


def test_other_errors_and_other_threads_pass():
    def compile_nothing():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(compat.inductor().fx_codegen_and_compile).exception()

    original = compat.inductor().fx_codegen_and_compile
    with compat.cached_code_only():
        assert isinstance(compile_nothing(), TypeError)
        assert compat.inductor().fx_codegen_and_compile is not original
    with pytest.raises(ZeroDivisionError), compat.cached_code_only():
        raise ZeroDivisionError
    assert compat.inductor().fx_codegen_and_compile is original


def test_a_torch_whose_disk_cannot_be_asked(monkeypatch):
    monkeypatch.delattr(compat.inductor(), "fx_codegen_and_compile")
    with pytest.raises(compat.NotCachedError), compat.cached_code_only():
        pass


def test_tables_of_modules_are_those_in_use():
    module = nn.BatchNorm1d(2)
    module.register_buffer("scratch", torch.zeros(1), persistent=False)
    module.child = nn.Linear(1, 1)
    tables = compat.ModuleTables(module)
    assert list(tables.parameters) == ["weight", "bias"]
    assert list(tables.buffers) == ["running_mean", "running_var", "num_batches_tracked", "scratch"]
    assert (list(tables.children), tables.non_persistent_buffers) == (["child"], {"scratch"})
    tables.buffers["scratch"] = torch.ones(1)
    assert module.scratch.item() == 1


def test_every_module_has_these_attributes_and_no_others():
    assert {"training", "_parameters", "_forward_hooks"} <= compat.MODULE_ATTRIBUTES
    assert "weight" not in compat.MODULE_ATTRIBUTES


class Extra(nn.Module):
    def get_extra_state(self):
        return 1


def test_keys_of_extra_state():
    state = nn.ModuleDict({"_extra_state": nn.Linear(1, 1), "own": Extra()}).state_dict()
    assert [key for key in state if compat.is_extra_state(key)] == ["own._extra_state"]


def test_versions_of_modules():
    assert compat.module_versions(nn.BatchNorm1d(2).state_dict()) == {"": {"version": 2}}
    assert compat.module_versions({}) is None


def test_storages_are_told_apart():
    tensor, other = torch.zeros(4), torch.zeros(4)
    assert compat.storage_id(tensor.untyped_storage()) == compat.storage_id(tensor[1:].untyped_storage())
    assert compat.storage_id(tensor.untyped_storage()) != compat.storage_id(other.untyped_storage())

"""The equation is solved, and each step is that of a loop."""

import copy

import pytest
import torch


@pytest.mark.slow
def test_the_solution_is_the_exact_one(example):
    history, error = example.main()
    assert history[-1] < 1e-3 * history[0]
    assert error < 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.Adam(parameters, 0.01),
        lambda parameters: torch.optim.LBFGS(parameters, max_iter=5, line_search_fn="strong_wolfe"),
    ],
)
def test_steps_are_those_of_a_loop(example, make):
    x = example.make_data(32)
    model = example.make_model("sgd")
    twin = copy.deepcopy(model.module)
    optimizer = make(twin.parameters())

    def closure():
        optimizer.zero_grad()
        loss = twin(x)["residual"].square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    model.compile(make(model.module.parameters()), model.loss)
    history = model.fit(x, batch_size=32, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert history == pytest.approx(losses, rel=1e-3)
    for one, other in zip(model.module.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

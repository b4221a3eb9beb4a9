"""The server answers every request correctly, however many arrive at the same time."""

import runpy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import torchfit

httpx = pytest.importorskip("httpx", reason="needs the extra `examples`")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra `examples`")
pytest.importorskip("fastapi", reason="needs the extra `examples`")

EXAMPLES = Path(__file__).parents[2] / "examples"
REQUESTS, THREADS = 2000, 16


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model as `digits.py` saves it, with BatchNorm and dropout, just loaded."""
    torch.manual_seed(0)
    made = torchfit.Model(runpy.run_path(str(EXAMPLES / "digits.py"))["make_network"](), device="cpu")
    made.compile("sgd", torchfit.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit(np.random.default_rng(1).random((64, 1, 8, 8), "float32"), np.arange(64) % 10, verbose=0)
    path = tmp_path_factory.mktemp("served") / "digits.torchfit"
    made.save(path)
    return torchfit.models.load_model(path)


@pytest.fixture(scope="module")
def url(model):
    """The address of a running server."""
    app = runpy.run_path(str(EXAMPLES / "serve.py"))["make_app"](model)
    started = threading.Event()

    class Server(uvicorn.Server):  # type: ignore[name-defined]
        async def startup(self, sockets=None):
            await super().startup(sockets)
            started.set()

    server = Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(60)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/predict"
    server.should_exit = True
    thread.join()


@pytest.mark.slow
def test_2000_requests_from_16_threads(model, url):
    images = np.random.default_rng(0).random((40, 1, 8, 8), "float32")
    alone = np.concatenate([model.predict(images[i : i + 1]) for i in range(len(images))])
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    bodies = [{"images": image.tolist()} for image in images]

    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda number: client.post(url, json=bodies[number % 40]).json(), range(REQUESTS)))

    scores = np.array([answer["scores"][0] for answer in answers])
    np.testing.assert_allclose(scores, alone[np.arange(REQUESTS) % 40], atol=1e-5)
    assert [answer["digits"] for answer in answers[:40]] == alone.argmax(axis=1)[:, None].tolist()
    torch.testing.assert_close(dict(model.module.state_dict()), state, rtol=0, atol=0)


@pytest.mark.parametrize(
    "body", [{}, {"images": []}, {"images": [[[1.0]]]}, {"images": [[[0] * 8] * 7]}, {"images": [[["a"] * 8] * 8]}]
)
def test_other_requests_are_refused(url, body):
    assert httpx.post(url, json=body, timeout=60).status_code == 422

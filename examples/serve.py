"""Serve a saved model over HTTP.

Train and save the digits of `examples/digits.py` with `make demo`, then serve them (extra `examples`):

    python examples/serve.py demo-output/digits.torchfit

    curl http://127.0.0.1:8000/predict -H "Content-Type: application/json" -d '{"images": [[[0, 0, …], …]]}'

FastAPI runs endpoints that are plain functions in a thread pool, so several requests use the model at the same time.
"""

import sys
from typing import Annotated

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field, FiniteFloat

import torchfit

Line = Annotated[list[FiniteFloat], Field(min_length=8, max_length=8)]
Image = Annotated[list[Line], Field(min_length=8, max_length=8)]


class Request(BaseModel):
    """Gray images of 8 × 8 pixels from 0 (white) to 1 (black)."""

    images: Annotated[list[Image], Field(min_length=1, max_length=1000)]


class Answer(BaseModel):
    """The most likely digit of each image, and the scores of all ten digits."""

    digits: list[int]
    scores: list[list[float]]


def make_app(model: torchfit.Model) -> FastAPI:
    """Return an application that answers `POST /predict` with the predictions of a model."""
    app = FastAPI(title="Handwritten digits")

    @app.post("/predict")
    def predict(request: Request) -> Answer:
        images = np.array(request.images, dtype="float32")[:, None]
        scores = model.predict(images)
        return Answer(digits=scores.argmax(axis=1).tolist(), scores=scores.tolist())

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(torchfit.models.load_model(sys.argv[1])))

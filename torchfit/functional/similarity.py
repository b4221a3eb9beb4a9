"""Embeddings: same labels near, other labels far."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import as_floating, shape_mismatch_error
from torchfit.functional.masks import with_mask


def circle(
    y_true: TensorLike,
    y_pred: TensorLike,
    ref_labels: TensorLike = None,
    ref_embeddings: TensorLike = None,
    remove_diagonal: bool = True,
    gamma: float = 80,
    margin: float = 0.4,
) -> Tensor:
    """Return the circle loss `(batch,)` of embeddings (Sun et al., 2020, https://arxiv.org/abs/2002.10857).

    For each row, `softplus(logsumexp(gamma·a_p·(d_p - margin)) + logsumexp(gamma·a_n·(s_n - margin)))` over the
    distances `d = 1 - s` to rows with the same label and the similarities `s` to rows with another, with
    `a_p = relu(d_p + margin)` and `a_n = relu(s_n + margin)`. Rows without either give 0, and the `_keras_mask`
    of the result leaves them out.

    Arguments:
        y_true: class indices `(batch,)` or `(batch, 1)`.
        y_pred: embeddings of length 1, `(batch, features)`.
        ref_labels: class indices `(references,)` of what the rows are compared with; `y_true` by default.
        ref_embeddings: embeddings `(references, features)`; `y_pred` by default.
        remove_diagonal: do not compare row i with reference i.
        gamma: the scale, which sets how hard the hardest pairs weigh.
        margin: the slack; small is strict.

    >>> circle([0, 0, 1], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).tolist()  # doctest: +ELLIPSIS
    [7.6...e-12, 7.6...e-12, 0.0]
    """
    y_pred = as_floating(y_pred)
    labels = _label_row(y_true, y_pred)
    references = y_pred if ref_embeddings is None else as_tensor(ref_embeddings, y_pred.dtype, y_pred.device)
    others = labels if ref_labels is None else _label_row(ref_labels, references)
    similarity = y_pred @ references.mT
    same, different = _pairs(labels, others, remove_diagonal)
    near = _hardness(1 - similarity, margin, gamma, same)
    far = _hardness(similarity, margin, gamma, different)
    return with_mask(F.softplus(near + far), same.any(-1) & different.any(-1))


def _label_row(labels: TensorLike, embeddings: Tensor) -> Tensor:
    row: Tensor = as_tensor(labels, device=embeddings.device)
    if row.dim() == 2 and row.shape[-1] == 1:
        row = row.squeeze(-1)
    if embeddings.dim() != 2 or row.shape != embeddings.shape[:1]:
        way_out = "Give one class index for each row of embeddings (batch, features)."
        raise shape_mismatch_error(row, embeddings, "class indices (batch,)", way_out)
    return row


def _pairs(labels: Tensor, others: Tensor, remove_diagonal: bool) -> tuple[Tensor, Tensor]:
    """Return which pairs `(batch, references)` have the same label, and which different ones."""
    same = labels.unsqueeze(1) == others.unsqueeze(0)
    if not remove_diagonal:
        return same, ~same
    off_diagonal = ~torch.eye(*same.shape, dtype=torch.bool, device=same.device)
    return same & off_diagonal, ~same & off_diagonal


def _hardness(values: Tensor, margin: float, gamma: float, counted: Tensor) -> Tensor:
    """Return `logsumexp` of how far the counted values are beyond the margin; -inf where none counts."""
    terms = gamma * (values + margin).relu() * (values - margin)
    return terms.masked_fill(~counted, -math.inf).logsumexp(-1)

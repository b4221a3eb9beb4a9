from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.batch_converter import BatchConverter
from torchfit._data.convert import BatchSpec


def parts(*data):
    adapter: Any = get_data_adapter(*data)
    return adapter.parts


@pytest.fixture
def frame():
    return pd.DataFrame({"age": [1, 2], "income": [0.5, 1.5], "member": [True, False]}, index=[45, 7])


def test_numeric_columns_are_one_matrix(frame, batches_of):
    assert batches_of(frame) == [([[1, 0.5, 1], [2, 1.5, 0]],)]


def test_columns_of_bools_and_integers_are_integers(frame, batch_spec):
    x = parts(frame[["age", "member"]], None, None, batch_spec)[0]
    assert x.dtype == torch.int64
    assert x.tolist() == [[1, 1], [2, 0]]


def test_a_series_is_a_column(batches_of):
    assert batches_of(pd.Series([1.0, 2.0]), pd.Series([0, 1])) == [([[1.0], [2.0]], [[0], [1]])]


def test_a_series_of_weights_is_flat(batches_of):
    assert batches_of([1.0, 2.0], [0, 1], pd.Series([3, 4])) == [([1.0, 2.0], [0, 1], [3.0, 4.0])]


def test_nullable_dtypes(batches_of):
    frame = pd.DataFrame({"a": pd.array([1, 2], "Int64"), "b": pd.array([0.5, 1], "Float32")})
    assert batches_of(frame) == [([[1, 0.5], [2, 1]],)]


def test_missing_values_are_nan(batch_spec):
    x = parts(pd.Series([1, None], dtype="Int64"), None, None, batch_spec)[0]
    assert x[0] == 1
    assert x[1].isnan()


def test_columns_go_to_the_inputs_of_their_name(frame):
    batch_spec = BatchSpec(torch.device("cpu"), input_names=["income", "age"])
    x = parts(frame, None, None, batch_spec)[0]
    assert {name: part.tolist() for name, part in x.items()} == {"income": [[0.5], [1.5]], "age": [[1], [2]]}


def test_a_single_input_that_is_no_column_gets_the_matrix(frame):
    batch_spec = BatchSpec(torch.device("cpu"), input_names=["x"])
    assert parts(frame, None, None, batch_spec)[0].shape == (2, 3)


def test_an_input_without_column_is_named(frame):
    batch_spec = BatchSpec(torch.device("cpu"), input_names=["age", "height"])
    with pytest.raises(ValueError, match=r"`x` has no column for the inputs \['height'\]"):
        get_data_adapter(frame, None, None, batch_spec)


@pytest.mark.parametrize(
    "values",
    [["a", "b"], pd.Categorical(["a", "b"]), pd.to_datetime(["2020-01-01", "2020-01-02"]), [object(), object()]],
)
def test_columns_without_numbers_are_named(frame, values, batch_spec):
    frame["color"] = values
    with pytest.raises(ValueError, match=r"`x` .* hold no numbers: 'color' .*get_dummies"):
        get_data_adapter(frame, None, None, batch_spec)


def test_a_categorical_series_is_refused(batch_spec):
    with pytest.raises(ValueError, match=r"`y` .* 'kind' \(category\)"):
        get_data_adapter(np.zeros(2), pd.Series(["a", "b"], dtype="category", name="kind"), None, batch_spec)


def test_frames_inside_dictionaries(frame, batches_of):
    assert batches_of({"a": frame[["age"]], "b": frame["income"]}) == [({"a": [[1], [2]], "b": [[0.5], [1.5]]},)]


def test_columns_go_to_the_parameters_of_their_name(frame):
    batch_spec = BatchSpec(torch.device("cpu"), parameter_names=["income", "age"])
    x = parts(frame, None, None, batch_spec)[0]
    assert {name: part.tolist() for name, part in x.items()} == {"income": [[0.5], [1.5]], "age": [[1], [2]]}
    assert BatchConverter(batch_spec)(frame).inputs["age"].tolist() == [[1], [2]]


@pytest.mark.parametrize("names", [["x"], ["age"], ["age", "height"]])
def test_parameters_without_columns_get_the_matrix(names, frame):
    batch_spec = BatchSpec(torch.device("cpu"), parameter_names=names)
    assert parts(frame, None, None, batch_spec)[0].shape == (2, 3)


@pytest.mark.parametrize("kind", ["Int64", "boolean"])
def test_missing_labels_are_refused_as_such(kind, batch_spec):
    y = pd.Series([1, None], dtype=kind)
    for labels in (y, y.to_frame()):
        with pytest.raises(ValueError, match=r"`y` is .* with missing values \(NA\)"):
            get_data_adapter(np.zeros(2), labels, None, batch_spec)
    assert parts(np.zeros(2), pd.Series([1.0, None]), None, batch_spec)[1][1].isnan()

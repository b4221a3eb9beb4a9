"""scikit-learn's own checks of estimators, and a search over a pipeline."""

import copy
import pickle

import numpy as np
import pytest
from torch import nn

import torchfit

pytest.importorskip("sklearn", minversion="1.6", reason="tests the estimators for scikit-learn")

from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from torchfit.sklearn import Classifier, Regressor

WEIGHTS = "batches are drawn from other rows where a row is repeated instead of weighted: equal in expectation only"
ROUNDING = "on some processors, kernels in float32 round differently for batches of another size"
EXPECTED = {
    "check_methods_subset_invariance": ROUNDING,
    "check_sample_weight_equivalence_on_dense_data": WEIGHTS,
    "check_sample_weights_invariance": WEIGHTS,
}


@parametrize_with_checks(
    [
        Classifier(learning_rate=0.01, epochs=30, random_state=0, device="cpu"),
        Regressor(learning_rate=0.01, epochs=30, random_state=0, device="cpu"),
    ],
    expected_failed_checks=lambda _: EXPECTED,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


X, y = load_iris(return_X_y=True)


def network(inputs, outputs, width=8):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


def test_a_search_over_a_pipeline():
    pipeline = make_pipeline(StandardScaler(), Classifier(network, epochs=5, learning_rate=0.01, random_state=0))
    grid = {"classifier__module_arguments": [{"width": 1}, {"width": 32}]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert search.best_params_["classifier__module_arguments"] == {"width": 32}
    assert search.best_score_ > 0.8


def test_classes_keep_their_names():
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    classifier = Classifier(learning_rate=0.01, metrics=["accuracy"], random_state=0).fit(X, names)
    assert classifier.score(X, names) > 0.9
    assert classifier.predict_proba(X).sum(1) == pytest.approx(1)
    assert list(classifier.history_) == ["loss", "accuracy"]
    assert classifier.n_iter_ == 20


def test_a_module_is_copied_and_probabilities_stay():
    module = nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1))
    before = copy.deepcopy(module.state_dict())
    classifier = Classifier(module, loss="sparse_categorical_crossentropy", epochs=2).fit(X, y)
    assert all((value == before[name]).all() for name, value in module.state_dict().items())
    assert classifier.predict_proba(X).sum(1) == pytest.approx(1)


def test_one_output_for_two_classes():
    module = nn.Linear(4, 1)
    classifier = Classifier(module, loss=nn.BCEWithLogitsLoss(), learning_rate=0.05, random_state=0).fit(
        X[:100], y[:100]
    )
    assert classifier.predict_proba(X[:5]).shape == (5, 2)
    assert classifier.score(X[:100], y[:100]) > 0.95


def test_a_warm_start_goes_on():
    classifier = Classifier(epochs=3, warm_start=True, random_state=0).fit(X, y)
    model, loss = classifier.model_, classifier.history_["loss"][-1]
    assert classifier.fit(X, y).model_ is model
    assert classifier.history_["loss"][-1] < loss


def test_pickles_predict_alike():
    regressor = Regressor(epochs=2, random_state=0).fit(X, X[:, :2])
    again = pickle.loads(pickle.dumps(regressor))
    np.testing.assert_array_equal(again.predict(X), regressor.predict(X))
    assert again.predict(X).shape == (150, 2)


def test_cross_validation_of_a_regressor():
    data, target = load_diabetes(return_X_y=True)
    regressor = Regressor(learning_rate=0.01, epochs=10, random_state=0)
    pipeline = make_pipeline(StandardScaler(), regressor)
    assert cross_val_score(pipeline, data, target / 100, cv=3).mean() > 0.2


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match="`module` must be a module or return one"):
        Classifier("net").fit(X, y)


def test_the_estimators_are_an_attribute_of_the_package():
    assert torchfit.sklearn.Classifier is Classifier
    assert "sklearn" in dir(torchfit)


def build(inputs, outputs, hidden=4):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def test_a_grid_may_hold_arguments_of_the_network():
    classifier = Classifier(build, module_arguments={"hidden": 3}, epochs=1, device="cpu")
    search = GridSearchCV(classifier, {"module__hidden": [2, 5]}, cv=2).fit(X, y)
    best = search.best_estimator_
    assert (
        best.model_.module[0].out_features == best.module_arguments["hidden"] == search.best_params_["module__hidden"]
    )
    assert classifier.module_arguments == {"hidden": 3}


def test_a_factory_may_take_no_sizes():
    assert Classifier(lambda: build(4, 3), epochs=1, device="cpu").fit(X, y).predict(X).shape == y.shape
    sized = Classifier(lambda hidden: build(4, 3, hidden), module_arguments={"hidden": 7}, epochs=1, device="cpu")
    assert sized.fit(X, y).model_.module[0].out_features == 7
    with pytest.raises(TypeError, match=r"`module` is called with the numbers of inputs and outputs"):
        Classifier(lambda size: build(size, 3), epochs=1).fit(X, y)

"""scikit-learn's own checks of estimators, and a search over a pipeline."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import torchfit

pytest.importorskip("sklearn", minversion="1.6", reason="tests the estimators for scikit-learn")

from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.metrics import f1_score, median_absolute_error, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from torchfit.sklearn import Classifier, EpochScoring, Regressor

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
        Classifier("net").fit(X, y)  # type: ignore[arg-type]


def test_the_estimators_are_an_attribute_of_the_package():
    assert torchfit.sklearn.Classifier is Classifier
    assert "sklearn" in dir(torchfit)


def build(inputs, outputs, hidden=4):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


SMALL = np.random.default_rng(0).normal(size=(24, 8)).astype("float32")
THREE = np.arange(24) % 3


def test_a_search_over_arguments_of_the_network():
    search = GridSearchCV(Classifier(build, epochs=1), {"module__hidden": [2, 5]}, cv=2).fit(SMALL, THREE)
    hidden = search.best_params_["module__hidden"]
    assert search.best_estimator_.model_.module[0].out_features == hidden
    assert search.best_estimator_.get_params()["module__hidden"] == hidden


def test_a_search_in_a_pipeline_beside_other_arguments():
    pipe = make_pipeline(StandardScaler(), Classifier(build, epochs=1, module_arguments={"hidden": 3}))
    grid = {"classifier__module__hidden": [2], "classifier__learning_rate": [0.1]}
    search = GridSearchCV(pipe, grid, cv=2).fit(SMALL, THREE)
    found = search.best_estimator_[-1]
    assert found.model_.module[0].out_features == 2
    assert pipe[-1].module_arguments == {"hidden": 3}


def test_clones_keep_arguments_of_the_network():
    classifier = clone(Classifier(build).set_params(module__hidden=7))
    assert classifier.module_arguments == {"hidden": 7}


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (build, "module__hiden", "`module` takes no argument 'hiden'. Did you mean 'hidden'"),
        (nn.Linear(8, 3), "module__hidden", "an argument of the function that builds the network"),
        (None, "module__hidden", "an argument of the function that builds the network"),
        (build, "loss__reduction", "`loss` is None, which has no arguments.*`module__name`"),
        (
            build,
            "nothing",
            "`Classifier` has no argument `nothing`. An argument of `module` is set as `module__nothing`",
        ),
        (build, "epoch", "`Classifier` has no argument `epoch`. Did you mean 'epochs'"),
        (build, "nothing__at_all", "Invalid parameter 'nothing'"),
    ],
)
def test_names_that_set_nothing_are_refused(module, name, message):
    with pytest.raises(ValueError, match=message):
        Classifier(module).set_params(**{name: 3})


class Fixed(nn.Linear):
    def __init__(self):
        super().__init__(8, 3)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(lambda: build(8, 3), None), (lambda *, hidden: build(8, 3, hidden), {"hidden": 2}), (Fixed, {})],
)
def test_what_makes_the_network_may_know_its_size(module, arguments):
    estimator = Classifier(module, module_arguments=arguments, epochs=1).fit(SMALL, THREE)
    assert estimator.predict_proba(SMALL).shape == (len(SMALL), 3)


@pytest.mark.parametrize(("module", "arguments"), [(lambda inputs: None, {}), (build, {"units": 3})])
def test_what_cannot_be_called_is_told_with_what_it_is_called_with(module, arguments):
    with pytest.raises(ValueError, match=r"is called with, \(inputs, outputs.*`module_arguments`"):
        Classifier(module, module_arguments=arguments).fit(SMALL, THREE)


def test_errors_of_what_makes_the_network_are_its_own():
    def broken(inputs, outputs):
        raise TypeError("own words")

    with pytest.raises(TypeError, match=r"^own words"):
        Classifier(broken).fit(SMALL, THREE)


class TestRouting:
    x, y = np.random.default_rng(0).normal(size=(60, 3)).astype("float32"), np.arange(60) % 2

    def test_arguments_of_the_optimizer_reach_it(self):
        estimator = Classifier(optimizer="sgd", optimizer__momentum=0.5, optimizer__learning_rate=0.25, epochs=1)
        optimizer = estimator.fit(self.x, self.y).model_.optimizer
        assert type(optimizer) is torchfit.optimizers.SGD
        assert (optimizer.momentum, optimizer.learning_rate) == (0.5, 0.25)

    def test_arguments_of_an_optimizer_of_torch_reach_it(self):
        estimator = Regressor(optimizer=torch.optim.SGD, optimizer__lr=0.25, optimizer__momentum=0.5, epochs=1)
        group = estimator.fit(self.x, self.y).model_.optimizer.optimizer.param_groups[0]
        assert (group["lr"], group["momentum"]) == (0.25, 0.5)

    def test_a_search_over_both(self):
        def build(inputs, outputs, hidden=4):
            return nn.Sequential(nn.Linear(inputs, hidden), nn.Linear(hidden, outputs))

        grid = {"module__hidden": [2, 3], "optimizer__learning_rate": [0.1, 0.2], "optimizer__weight_decay": [0.01]}
        search = GridSearchCV(Classifier(build, epochs=1), grid, cv=2).fit(self.x, self.y)
        best = search.best_estimator_
        assert best.model_.optimizer.learning_rate == search.best_params_["optimizer__learning_rate"]
        assert best.model_.optimizer.weight_decay == 0.01
        assert best.model_.module[0].out_features == search.best_params_["module__hidden"]

    def test_misspelt_arguments_and_those_of_an_object_are_refused(self):
        with pytest.raises(TypeError, match=r"`Classifier` has no argument `epoch`. Did you mean 'epochs'"):
            Classifier(epoch=3)
        with pytest.raises(ValueError, match=r"`optimizer__momentum`.*name or a class.*SGD"):
            Classifier(optimizer=torchfit.optimizers.SGD(), optimizer__momentum=0.5)


class TestEpochScoring:
    x = np.random.default_rng(0).normal(size=(90, 3)).astype("float32")

    def fit(self, outputs, loss, y, scoring, **arguments):
        model = torchfit.Model(nn.Linear(3, outputs), device="cpu")
        model.compile("adam", loss)
        scoring = EpochScoring(scoring, (self.x, y), **arguments)
        history = model.fit(self.x, y, epochs=2, callbacks=[scoring], verbose=0).history
        return model, history[scoring.name]

    def test_a_score_of_classes_by_name_is_that_of_scikit_learn(self):
        y = np.arange(90) % 3
        model, scores = self.fit(3, nn.CrossEntropyLoss(), y, "f1_macro")
        assert len(scores) == 2
        assert scores[-1] == pytest.approx(f1_score(y, model.predict(self.x).argmax(1), average="macro"))

    @pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), "binary_crossentropy"])
    def test_a_score_of_probabilities(self, loss):
        y = np.arange(90) % 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, scores = self.fit(1, loss, y, "roc_auc")
        assert scores[-1] == pytest.approx(roc_auc_score(y, model.predict(self.x)[:, 0]))

    def test_a_function_and_a_regression(self):
        y = self.x.sum(1)
        model, scores = self.fit(1, "mse", y, median_absolute_error, name="median")
        assert scores[-1] == pytest.approx(median_absolute_error(y, model.predict(self.x)[:, 0]))

    def test_other_callbacks_monitor_it(self):
        model = torchfit.Model(nn.Linear(3, 3), device="cpu")
        model.compile("adam", nn.CrossEntropyLoss())
        scoring = EpochScoring("accuracy", (self.x, np.arange(90) % 3))
        stop = torchfit.callbacks.EarlyStopping("val_accuracy", mode="max", patience=1)
        model.fit(self.x, np.arange(90) % 3, epochs=2, callbacks=[scoring, stop], verbose=0)
        assert stop.best is not None

    def test_unknown_scorers_are_refused(self):
        with pytest.raises(ValueError, match="'f2'"):
            EpochScoring("f2", (self.x, self.x))
        with pytest.raises(ValueError, match=r"`data` must be \(x, y\)"):
            EpochScoring("f1", self.x)  # type: ignore[arg-type]

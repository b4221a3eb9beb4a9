"""Bad arguments are refused where the metric is made: which one, what is allowed, what came."""

import pytest
import torch

from torchfit import metrics


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: metrics.AUC(curve="X"), r"`curve` must be one of \('ROC', 'PR', 'PRGAIN'\). Received: 'X'"),
        (lambda: metrics.AUC(summation_method="X"), "`summation_method` must be one of.*Received: 'X'"),
        (lambda: metrics.AUC(num_thresholds=1), "`num_thresholds` must be an integer of at least 2. Received: 1"),
        (
            lambda: metrics.AUC(thresholds=[-1]),
            "`thresholds` must be a number, or a list.*Received: a list of length 1",
        ),
        (
            lambda: metrics.AUC(multi_label=True, num_labels=2, label_weights=[1]),
            "as many as num_labels=2. Received: 1",
        ),
        (lambda: metrics.AUC(label_weights=[1, -1]), "`label_weights` must not be negative"),
        (lambda: metrics.Precision(thresholds=2.0), "`thresholds` must be a number.*from 0 to 1. Received: 2.0"),
        (lambda: metrics.Precision(top_k=0), "`top_k` must be an integer of at least 1. Received: 0"),
        (lambda: metrics.Recall(class_id=-1), "`class_id` must be an integer of at least 0. Received: -1"),
        (lambda: metrics.PrecisionAtRecall(2), "`recall` must be a number from 0 to 1. Received: 2"),
        (lambda: metrics.RecallAtPrecision(0.5, num_thresholds=0), "`num_thresholds` must be an integer of at least 1"),
        (lambda: metrics.F1Score(average="X"), "`average` must be one of.*Received: 'X'"),
        (lambda: metrics.F1Score(threshold=2.0), "`threshold` must be None or a float above 0"),
        (lambda: metrics.FBetaScore(beta=-1.0), "`beta` must be a float above 0. Received: -1.0"),
        (lambda: metrics.R2Score(class_aggregation="X"), "`class_aggregation` must be one of"),
        (lambda: metrics.R2Score(num_regressors=-1), "`num_regressors` must be an integer of at least 0"),
        (lambda: metrics.IoU(2, [3]), "`target_class_ids` must be class indices from 0 to 1"),
        (lambda: metrics.MeanIoU(0), "`num_classes` must be an integer of at least 1. Received: 0"),
        (lambda: metrics.BinaryIoU(threshold=2), "`threshold` must be a number from 0 to 1. Received: 2"),
        (lambda: metrics.BinaryAccuracy(threshold="X"), "`threshold` must be a number. Received: 'X'"),  # type: ignore[arg-type]
        (lambda: metrics.BinaryAccuracy(threshold=2.0, from_logits=True), "`threshold` must be between 0 and 1 with"),
        (lambda: metrics.SparseCategoricalAccuracy(axis="1"), "`axis` must be an integer. Received: '1'"),  # type: ignore[arg-type]
        (lambda: metrics.TopKCategoricalAccuracy(k=0), "`k` must be an integer of at least 1. Received: 0"),
        (lambda: metrics.BinaryCrossentropy(label_smoothing=3), "`label_smoothing` must be a number from 0 to 1"),
        (lambda: metrics.Mean(name=3), "`name` must be a string. Received: 3"),  # type: ignore[arg-type]
        (lambda: metrics.Mean(dtype="X"), "`dtype` must be the name of a dtype. Received: 'X'"),
        (lambda: metrics.MeanMetricWrapper(3), "`fn` must be a callable"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_argument_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("metric", "target", "output", "message"),
    [
        (metrics.BinaryAccuracy(), (4,), (4, 4), "y_true must be of the shape of y_pred"),
        (metrics.CategoricalAccuracy(), (4,), (4, 3), "use sparse_categorical_accuracy"),
        (metrics.SparseCategoricalAccuracy(), (4, 3), (4, 3), "use categorical_accuracy"),
        (metrics.SparseTopKCategoricalAccuracy(), (4, 3), (4, 3), "y_true must be class indices"),
        (metrics.MeanSquaredError(), (4,), (4, 4), "y_true must be of the same shape"),
        (metrics.RootMeanSquaredError(), (4,), (4, 4), "y_true must be of the shape of y_pred"),
        (metrics.Precision(), (4, 1), (4, 3), "y_true must be of the shape of y_pred"),
        (metrics.Precision(class_id=0), (4,), (4,), r"`class_id` of 'precision' chooses among classes"),
        (metrics.RecallAtPrecision(0.5, class_id=0), (4,), (4,), "`class_id`.*chooses among classes"),
        (metrics.SparseCategoricalAccuracy(), (4, 5), (4, 3, 5), "pass axis=1"),
        (metrics.TopKCategoricalAccuracy(), (4,), (4, 3), "use sparse_top_k_categorical_accuracy"),
        (metrics.Precision(class_id=5), (4, 3), (4, 3), "`class_id` 5 of 'precision' is out of range"),
        (metrics.AUC(multi_label=True), (4,), (4,), r"`y_pred` must be \(batch, labels\) with multi_label=True"),
        (metrics.F1Score(), (4, 3, 2), (4, 3, 2), r"F1Score expects y_true and y_pred of shape \(batch, classes\)"),
        (metrics.R2Score(), (4, 3, 2), (4, 3, 2), r"R2Score expects y_true and y_pred of shape \(batch, columns\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(metric, target, output, message):
    with pytest.raises(ValueError, match=message):
        metric.update_state(torch.ones(target), torch.ones(output))


@pytest.mark.parametrize("metric", [metrics.Mean(), metrics.Sum()])
def test_weights_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match=r"`sample_weight` of shape \(3,\) does not"):
        metric.update_state(torch.ones(2, 3), torch.ones(3))


def test_weights_are_cut_to_whole_numbers_only_with_a_warning():
    metric = metrics.MeanIoU(2)
    with pytest.warns(UserWarning, match="holds fractions.*dtype='float32'"):
        metric.update_state([0, 1], [0, 1], sample_weight=[0.5, 0.5])

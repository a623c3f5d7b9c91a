import numpy as np
import pytest

from msrt.errors import InvalidConfig, QualityGate
from msrt.protocol.messages import TensorSpec
from msrt_cloud.quality import (
    accuracy,
    class_names,
    is_classifier,
    judge,
    predictions,
    relative_error,
    require_accuracy,
)

LABELS = np.arange(100) % 2
SCORES = np.eye(2, dtype=np.float32)[LABELS]


def wrong(scores, count):
    changed = scores.copy()
    changed[:count] = changed[:count, ::-1]
    return changed


@pytest.mark.parametrize(("mistakes", "passed"), [(0, True), (1, True), (2, False)])
def test_accuracy_may_drop_by_what_is_allowed(mistakes, passed):
    """One point of a hundred samples is one mistake."""
    found = judge(SCORES, wrong(SCORES, mistakes), labels=LABELS, classifier=True, max_drop=0.01)
    assert found.passed is passed
    assert found.numbers["accuracy_int8"] == 1 - mistakes / 100


def test_least_accuracy_holds_for_int8_too():
    """A drop that is allowed may still end below what was asked."""
    found = judge(SCORES, wrong(SCORES, 3), labels=LABELS, classifier=True, max_drop=0.1, min_accuracy=0.98)
    assert not found.passed
    assert "0.9700 against 1.0000" in found.reason


@pytest.mark.parametrize(("changed", "passed"), [(2, True), (3, False)])
def test_without_labels_classes_must_agree(changed, passed):
    """Twice the drop may change, for a changed answer is not always a wrong one."""
    found = judge(SCORES, wrong(SCORES, changed), labels=None, classifier=True, max_drop=0.01)
    assert found.passed is passed
    assert found.numbers["agreement"] == 1 - changed / 100


@pytest.mark.parametrize(("factor", "passed"), [(1.04, True), (1.06, False)])
def test_without_classes_the_error_is_bounded(factor, passed):
    """An autoencoder's outputs may be five percent off."""
    found = judge(SCORES, SCORES * np.float32(factor), labels=None, classifier=False, max_drop=0.01)
    assert found.passed is passed


def test_outputs_that_are_not_finite_never_pass():
    """NaN agrees with nothing."""
    found = judge(SCORES, SCORES * np.float32("nan"), labels=LABELS, classifier=True, max_drop=1.0)
    assert (found.passed, found.reason) == (False, "outputs that are not finite")
    assert relative_error(SCORES, np.full_like(SCORES, np.inf)) == float("inf")


def test_classes_are_read_from_what_models_give():
    """Scores, one probability, labels themselves; an image is refused."""
    assert list(predictions(SCORES[:4])) == [0, 1, 0, 1]
    assert list(predictions(np.array([[0.2], [0.7]], np.float32))) == [0, 1]
    assert list(predictions(np.array([3, 1]))) == [3, 1]
    assert accuracy(SCORES, LABELS) == 1.0
    with pytest.raises(QualityGate):
        predictions(np.zeros((2, 3, 4)))


def test_classifier_is_told_from_autoencoder():
    """Two axes that are no image of an input."""
    features, scores = TensorSpec("x", "FP32", (-1, 640)), TensorSpec("y", "FP32", (-1, 10))
    assert is_classifier((features,), (scores,))
    assert not is_classifier((features,), (TensorSpec("y", "FP32", (-1, 640)),))
    assert not is_classifier((features,), (TensorSpec("y", "FP32", (-1, 8, 8)),))


def test_too_little_accuracy_is_refused():
    """The sentence has both numbers and says what to do."""
    require_accuracy("the model", 0.9, 0.9)
    with pytest.raises(QualityGate, match=r"0\.8900, asked is 0\.9000; train on"):
        require_accuracy("the model", 0.89, 0.9)


def test_class_names_are_one_a_class():
    """A blank end is left out; a blank in the middle, too many or too few are refused: they would shift the names."""
    scores = (TensorSpec("y", "FP32", (-1, 3)),)
    assert class_names(["a", "b ", "c", "", ""], scores) == ("a", "b", "c")
    assert class_names([], scores) == ()
    with pytest.raises(InvalidConfig, match="line 2 of the labels is blank"):
        class_names(["a", "", "c"], scores)
    with pytest.raises(InvalidConfig, match="2 labels for the 3 classes of output y"):
        class_names(["a", "b"], scores)


def test_one_probability_has_two_names():
    """No and yes."""
    assert class_names(["no", "yes"], (TensorSpec("y", "FP32", (-1, 1)),)) == ("no", "yes")

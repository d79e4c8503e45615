"""Errors cross process borders whole: Ray pickles them."""

import pickle

import pytest
from ray import cloudpickle

from configs import errors
from configs.errors import TandemError
from serve.generation.engines import EngineLostError

KINDS = [TandemError, EngineLostError, *TandemError.__subclasses__()]


@pytest.mark.parametrize("kind", dict.fromkeys(KINDS), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_an_error_survives_pickling_with_everything_it_says(kind, pickler):
    error = pickler.loads(pickler.dumps(kind("what happened", hint="what to do", param="model")))
    assert type(error) is kind
    assert (error.message, error.hint, error.param) == ("what happened", "what to do", "model")
    assert str(error) == "what happened"


def test_hint_and_param_are_optional():
    error = pickle.loads(pickle.dumps(TandemError("only this")))
    assert (error.message, error.hint, error.param) == ("only this", "", None)


def test_every_class_is_drawn_in_the_tree():
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {name for name in defined if name not in errors.__doc__} == set()


def test_one_except_clause_catches_them_all():
    for kind in KINDS:
        assert issubclass(kind, TandemError)

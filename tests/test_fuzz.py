"""The first cases of the fuzzer: a fixed seed, in seconds. `make fuzz` goes on."""

import random

import fuzz
import pytest

CASES = {
    **{"onnx": 1200, "checkpoint": 1500, "layer": 1500, "model": 2000, "runtime": 1000},
    **{"command": 30, "run": 30},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> fuzz.Place:
    return fuzz.Place(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", CASES)
def test_random_wrong_use_ends_as_documented(name: str, place: fuzz.Place) -> None:
    number = 0
    try:
        for number in range(CASES[name]):
            fuzz.case(place, name, number)
    except Exception as error:
        raise AssertionError(f"python tests/fuzz.py --case {name} {number}") from error


def test_every_kind_of_case_is_tried() -> None:
    assert CASES.keys() == fuzz.KINDS_OF_CASE.keys()


def test_a_case_is_made_of_its_number_alone(place: fuzz.Place) -> None:
    first, second = (fuzz.damaged(place.files[0], random.Random("a 1")) for _ in range(2))
    assert first == second != place.files[0]


def test_a_case_leaves_nothing_to_those_after_it(place: fuzz.Place) -> None:
    before = repr(fuzz.ODD_JSON)
    for number in range(400):
        fuzz.case(place, "model", number)
    assert repr(fuzz.ODD_JSON) == before

"""What is made ahead: the order, and that the next is made while the last is worked with."""

import threading

import pytest

from siamese_diffusion.prefetch import one_ahead


def test_the_next_is_made_while_the_last_is_in_use() -> None:
    begun = [threading.Event() for _ in range(4)]

    def make(number: int) -> int:
        begun[number].set()
        return number * number

    found = []
    for number, made in enumerate(one_ahead(make, range(4))):
        if number < 3:
            assert begun[number + 1].wait(60)
        assert not any(event.is_set() for event in begun[number + 2 :])
        found.append(made)
    assert found == [0, 1, 4, 9]
    assert list(one_ahead(make, [])) == []


def test_an_error_comes_in_its_place() -> None:
    def make(number: int) -> float:
        return 1 / number

    made = one_ahead(make, [2, 1, 0, 4])
    assert [next(made), next(made)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)

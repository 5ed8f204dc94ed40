"""The domain and the slow model, two programs written from the same rules, give the same books."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tests import slow_model
from tests.compare import differences
from tests.fakes import simulate_in_memory
from tests.properties.effort import examples
from tests.properties.narrow import narrow_scenarios
from tests.random_scenarios import scenario


def assert_the_model_agrees(lines, as_of):
    found = differences(simulate_in_memory(lines, as_of), slow_model.simulate(lines, as_of))
    assert not found, "\n".join([*map(str, found[:10]), as_of, *map(json.dumps, lines)])


@examples(60)
@given(
    seed=st.integers(0, 2**32),
    lines=st.integers(15, 150),
    features=st.sampled_from(("books", "lots")),
)
def test_the_model_agrees_about_any_scenario(seed, lines, features):
    assert_the_model_agrees(*scenario(seed, lines=lines, features={features}))


@examples(200)
@given(narrow_scenarios())
def test_the_model_agrees_about_any_narrow_scenario(told):
    assert_the_model_agrees(*told)

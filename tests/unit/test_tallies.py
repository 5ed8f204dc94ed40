"""Events become daily tallies: sums of a day, and levels that raise the maximum of a cycle."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.tallies import Counts, PersonDay, Readings, Report, Sum

JANUARY = date(2024, 1, 1)
FEBRUARY = date(2024, 2, 1)
MARCH = date(2024, 3, 1)
STARTS = (JANUARY, FEBRUARY, MARCH)
CONTACTS = b""


def day(number, month=1):
    return date(2024, month, number)


def noon_of(on):
    return (on - JANUARY).days * 24 + 12


def readings(*reports, open_from=JANUARY):
    """Take in reports of contacts: day, level, and the hour of the year if not noon."""
    found = Readings()
    for on, level, *at in reports:
        report_level(found, on, level, *at, open_from=open_from)
    return found


def report_level(  # Tests name the two or three that they are about.
    found, on, level, at=None, *, person=CONTACTS, open_from=JANUARY
):
    found.report(
        person,
        Report(noon_of(on) if at is None else at, level),
        on=on,
        counts_on=max(on, open_from),
        open_from=open_from,
    )


# Counts


def test_uses_of_one_day_and_kind_are_summed():
    counts = Counts()

    counts.add(day(5), "sms", 10_000, 1)
    counts.add(day(5), "sms", 20_000, 2)
    counts.add(day(5), "lms", 28_000, 1)
    counts.add(day(6), "sms", 5_000, 3)

    assert counts.by_day == {
        day(5): {"sms": Sum(30_000, 3), "lms": Sum(28_000, 1)},
        day(6): {"sms": Sum(5_000, 3)},
    }
    assert counts.totals == {day(5): 58_000, day(6): 5_000}


def test_what_is_taken_back_leaves_the_rest():
    counts = Counts()
    counts.add(day(5), "sms", 30_000, 3)

    counts.add(day(5), "sms", -10_000, -1)

    assert counts.by_day == {day(5): {"sms": Sum(20_000, 2)}}
    assert counts.totals == {day(5): 20_000}


def test_all_of_a_day_can_be_taken_back():
    counts = Counts()
    counts.add(day(5), "", 30_000, 0)

    counts.add(day(5), "", -30_000, 0)

    assert counts.totals == {day(5): 0}


def test_free_messages_are_counted():
    counts = Counts()

    counts.add(day(5), "sms", 0, 7)
    counts.add(day(5), "sms", 0, -7)

    assert counts.by_day == {day(5): {"sms": Sum(0, 0)}}


@pytest.mark.parametrize(("quantity", "messages"), [(-1, 0), (0, -1)])
def test_more_than_is_there_is_never_taken_back(quantity, messages):
    with pytest.raises(AssertionError):
        Counts().add(day(5), "sms", quantity, messages)


def test_days_that_change_are_noted():
    counts = Counts()
    counts.put(day(4), "sms", Sum(7_000, 1))

    counts.add(day(5), "sms", 10_000, 1)
    counts.add(day(5), "sms", 10_000, 1)

    assert counts.changed == {day(5)}
    assert counts.by_day[day(5)] == {"sms": Sum(20_000, 2)}


def test_a_sum_that_is_put_replaces_the_one_before():
    counts = Counts()
    counts.put(day(5), "sms", Sum(7_000, 1))
    counts.put(day(5), "lms", Sum(28_000, 1))

    counts.put(day(5), "sms", Sum(9_000, 2))

    assert counts.by_day == {day(5): {"sms": Sum(9_000, 2), "lms": Sum(28_000, 1)}}
    assert counts.totals == {day(5): 37_000}


def test_days_that_changed_are_taken_once_up_to_a_day():
    counts = Counts()
    for number in (4, 5, 6):
        counts.add(day(number), "sms", 1_000, 1)

    assert counts.take_changed(before=day(6)) == {day(4), day(5)}
    assert counts.take_changed(before=day(6)) == set()
    assert counts.take_changed(before=day(7)) == {day(6)}


def test_days_before_a_day_are_forgotten():
    counts = Counts()
    for number in (4, 5, 6):
        counts.add(day(number), "sms", 1_000, 1)

    counts.forget_before(day(5))

    assert set(counts.by_day) == set(counts.totals) == {day(5), day(6)}


# Readings


def test_a_day_uses_as_much_as_it_raised_the_maximum_of_its_cycle():
    found = readings((day(5), 100), (day(10), 40), (day(20), 120), (day(30), 119))

    assert found.usage(STARTS, day(31)) == {day(5): 100_000, day(20): 20_000}


def test_the_highest_level_of_a_day_counts():
    found = readings((day(5), 100, 100), (day(5), 150, 101), (day(5), 20, 102))

    assert found.usage(STARTS, day(31)) == {day(5): 150_000}


def test_the_level_in_force_counts_on_the_first_day_of_each_cycle():
    found = readings((day(5), 100), (day(20), 60), (day(25), 80))

    assert found.usage(STARTS, MARCH) == {day(5): 100_000, FEBRUARY: 80_000, MARCH: 80_000}


def test_usage_is_told_up_to_a_day():
    found = readings((day(5), 100), (day(10, 2), 130))

    assert found.usage(STARTS, day(4)) == {}
    assert found.usage(STARTS, day(5)) == {day(5): 100_000}
    assert found.usage(STARTS, day(31)) == {day(5): 100_000}
    assert found.usage(STARTS, FEBRUARY) == {day(5): 100_000, FEBRUARY: 100_000}
    assert found.usage(STARTS, day(9, 2)) == {day(5): 100_000, FEBRUARY: 100_000}
    assert found.usage(STARTS, day(10, 2)) == {
        day(5): 100_000,
        FEBRUARY: 100_000,
        day(10, 2): 30_000,
    }


def test_a_report_of_the_first_day_of_a_cycle_raises_what_was_in_force():
    found = readings((day(5), 100), (FEBRUARY, 70), (day(9, 2), 120))

    assert found.usage(STARTS, day(28, 2)) == {
        day(5): 100_000,
        FEBRUARY: 100_000,
        day(9, 2): 20_000,
    }


def test_a_level_of_0_is_no_usage_and_carries_nothing_over():
    found = readings((day(5), 100), (day(9), 0))

    assert found.usage(STARTS, MARCH) == {day(5): 100_000}


def test_the_latest_report_of_a_day_is_in_force_whatever_was_read_last():
    found = readings((day(5), 70, 110), (day(5), 100, 109), (day(4), 500, 90))

    assert found.usage(STARTS, FEBRUARY)[FEBRUARY] == 70_000


@pytest.mark.parametrize("levels", [(60, 90), (90, 60)])
def test_of_two_reports_at_one_instant_the_higher_is_in_force(levels):
    found = readings(*[(day(5), level) for level in levels])

    assert found.usage(STARTS, FEBRUARY)[FEBRUARY] == 90_000


def test_people_are_counted_one_by_one():
    found = Readings()
    report_level(found, day(5), 1, person=b"a")
    report_level(found, day(5), 1, person=b"b")
    report_level(found, day(6), 0, person=b"a")
    report_level(found, day(7), 1, person=b"a")
    report_level(found, day(8), 0, person=b"b")

    assert found.usage(STARTS, FEBRUARY) == {day(5): 2_000, FEBRUARY: 1_000}


def test_a_late_report_counts_on_the_first_open_day_and_is_in_force_by_its_time():
    found = readings((day(5, 2), 30), open_from=FEBRUARY)

    report_level(found, day(20), 50, open_from=FEBRUARY)
    report_level(found, day(10), 500, open_from=FEBRUARY)

    assert found.usage((FEBRUARY, MARCH), MARCH) == {FEBRUARY: 500_000, MARCH: 30_000}
    assert found.before[CONTACTS] == Report(noon_of(day(20)), 50)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ((100, 5), (101, 3), 3),
        ((101, 3), (100, 5), 3),
        ((100, 5), (100, 7), 7),
        ((100, 7), (100, 5), 7),
    ],
)
def test_of_two_late_reports_the_later_is_in_force_and_at_one_instant_the_higher(
    first, second, kept
):
    found = readings((day(10), first[1], first[0]), open_from=FEBRUARY)

    report_level(found, day(10), second[1], second[0], open_from=FEBRUARY)

    assert found.before[CONTACTS].level == kept


def test_a_late_release_is_no_usage():
    found = readings((day(10), 0), open_from=FEBRUARY)

    assert found.usage((FEBRUARY, MARCH), MARCH) == {}
    assert found.days == {}


def test_what_changed_is_noted_by_person_and_day():
    found = Readings()

    report_level(found, day(5), 100, 7, open_from=day(3))
    report_level(found, day(5), 40, 9, open_from=day(3))
    report_level(found, day(5), 30, 8, open_from=day(3))
    report_level(found, day(6), 0, 30, person=b"a", open_from=day(3))

    assert found.changed == {
        (CONTACTS, day(5)): (100, 9, 40),
        (b"a", day(6)): (None, 30, 0),
    }
    assert found.changed_before == {}


def test_a_late_report_notes_the_day_it_counts_on_and_what_is_in_force_before():
    found = Readings()

    report_level(found, day(2), 100, 7, open_from=day(3))

    assert found.changed == {(CONTACTS, day(3)): (100, None, 0)}
    assert found.changed_before == {CONTACTS: Report(7, 100)}


def test_a_late_report_that_is_neither_higher_nor_later_changes_nothing():
    found = Readings()
    report_level(found, day(2), 100, 7, open_from=day(3))
    found.changed.clear()
    found.changed_before.clear()

    report_level(found, day(2), 90, 6, open_from=day(3))

    assert found.changed == {}
    assert found.changed_before == {}


@pytest.mark.parametrize("open_from", [JANUARY, FEBRUARY])
def test_a_report_that_is_taken_in_again_changes_nothing(open_from):
    found = readings((day(5), 100), open_from=open_from)
    found.changed.clear()
    found.changed_before.clear()

    report_level(found, day(5), 100, open_from=open_from)

    assert found.changed == {}
    assert found.changed_before == {}


def test_a_report_of_the_first_open_day_does_not_hide_the_level_that_carried_over():
    found = readings((day(31), 50), (FEBRUARY, 10), open_from=FEBRUARY)

    found.days = {FEBRUARY: {CONTACTS: PersonDay(10, noon_of(FEBRUARY), 10)}}

    assert found.usage((FEBRUARY,), FEBRUARY) == {FEBRUARY: 50_000}


def test_reports_are_counted_as_they_come_and_go():
    found = readings((day(5), 100), (day(20), 60), (day(20), 70), (FEBRUARY, 80), (day(9, 2), 10))
    assert found.reports_held == 4

    found.forget_before(FEBRUARY)

    # The level that carries over is one, too.
    assert found.reports_held == 3


def test_closed_days_are_forgotten_but_for_the_level_that_carries_over():
    found = readings((day(5), 100), (day(20), 60), (FEBRUARY, 80), (day(9, 2), 10))
    before = found.usage(STARTS, MARCH)

    found.forget_before(FEBRUARY)

    assert found.before == {CONTACTS: Report(noon_of(day(20)), 60)}
    assert found.changed_before == found.before
    assert set(found.days) == {FEBRUARY, day(9, 2)}
    after = found.usage((FEBRUARY, MARCH), MARCH)
    assert after == {on: used for on, used in before.items() if on >= FEBRUARY}


def test_where_nothing_was_reported_what_carried_over_goes_on():
    found = Readings()
    found.before[CONTACTS] = Report(5, 70)

    found.forget_before(FEBRUARY)

    assert found.before == {CONTACTS: Report(5, 70)}
    assert found.changed_before == {}
    assert found.usage((FEBRUARY, MARCH), MARCH) == {FEBRUARY: 70_000, MARCH: 70_000}


def test_the_level_before_a_day_is_that_of_the_latest_earlier_day():
    found = Readings()
    found.before[CONTACTS] = Report(1, 7)
    found.put(CONTACTS, day(9), PersonDay(None, 200, 20))
    found.put(CONTACTS, day(5), PersonDay(50, 100, 50))
    found.put(CONTACTS, day(10), PersonDay(70))

    levels = [found.level_before(CONTACTS, day(number)) for number in (4, 5, 6, 9, 10, 11)]

    assert levels == [7, 7, 50, 50, 20, 20]
    assert found.level_before(b"a", day(5)) == 0


def test_a_level_is_in_force_while_it_is_not_0():
    found = readings((day(5), 100), (day(9), 0))

    assert [found.in_force(day(number)) for number in (5, 6, 9, 10)] == [False, True, True, False]


def test_a_level_is_in_force_when_any_person_has_one():
    found = Readings()
    report_level(found, day(5), 0, person=b"a")
    report_level(found, day(5), 1, person=b"b")

    assert found.in_force(day(6))


def test_a_peak_before_the_first_cycle_is_not_counted():
    found = readings((day(5), 100))

    assert found.usage((FEBRUARY, MARCH), day(28, 2)) == {FEBRUARY: 100_000}


def test_a_report_of_somebody_new_raises_the_usage_by_its_level():
    assert Readings().raised(CONTACTS, 30, day(5), JANUARY) == 30


@pytest.mark.parametrize(
    ("level", "raised"),
    [(90, 0), (100, 0), (101, 1), (130, 30)],
)
def test_a_report_raises_the_usage_by_what_it_is_above_the_maximum_of_the_cycle(level, raised):
    found = readings((day(4), 100), (day(9), 60))

    assert found.raised(CONTACTS, level, day(9), JANUARY) == raised
    assert found.raised(CONTACTS, level, day(10), JANUARY) == raised


def test_a_report_is_held_against_the_maximum_of_its_own_cycle_only():
    found = readings((day(4), 100), (day(9), 40), (day(1, 2), 50), (day(9, 3), 200))

    assert found.raised(CONTACTS, 70, day(2, 2), FEBRUARY) == 20
    assert found.raised(CONTACTS, 70, day(1, 2), FEBRUARY) == 20


def test_a_report_is_held_against_the_level_that_carried_over():
    found = readings((day(4), 100), (day(9), 40))

    assert found.raised(CONTACTS, 70, day(2, 2), FEBRUARY) == 30
    assert found.raised(CONTACTS, 40, day(2, 2), FEBRUARY) == 0
    assert found.raised(CONTACTS, 39, day(2, 2), FEBRUARY) == 0


def test_somebody_who_held_nothing_so_far_in_the_cycle_is_raised_from_nothing():
    found = readings((day(4), 1), (day(9), 0))

    assert found.raised(CONTACTS, 1, day(10), JANUARY) == 0
    assert found.raised(CONTACTS, 1, day(2, 2), FEBRUARY) == 1


def test_what_a_person_reports_raises_nothing_for_another():
    found = readings((day(4), 100))

    assert found.raised(b"somebody else", 1, day(4), JANUARY) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from((0, 0, 1, 9, 31)), st.integers(0, 5), st.integers(0, 23)),
        max_size=20,
    )
)
def test_what_a_report_of_the_newest_day_raises_is_what_usage_grows_by(reports):
    found, on = Readings(), JANUARY
    for later, level, hour in reports:
        on = min(on + timedelta(days=later), day(31, 3))
        cycle_on = max(start for start in STARTS if start <= on)
        before = found.usage(STARTS, on)

        raised = found.raised(CONTACTS, level, on, cycle_on)
        report_level(found, on, level, noon_of(on) + hour)

        grown = {**before, on: before.get(on, 0) + raised * 1000}
        after = found.usage(STARTS, on)
        assert after == {used_on: usage for used_on, usage in grown.items() if usage}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 80), st.integers(0, 23), st.integers(0, 5), st.sampled_from("abc")
        ),
        max_size=30,
    )
)
def test_usage_is_what_a_count_day_by_day_gives(reports):
    found = Readings()
    for number, hour, level, person in reports:
        on = JANUARY + timedelta(days=number)
        report_level(found, on, level, number * 24 + hour, person=person.encode())

    expected = {}
    for person in "abc":
        own = sorted(
            (number * 24 + hour, level) for number, hour, level, of in reports if of == person
        )
        highest = in_force = 0
        for number in range(91):
            on = JANUARY + timedelta(days=number)
            levels = [level for at, level in own if at // 24 == number]
            reached = max(levels, default=0)
            if on in STARTS:
                highest, reached = 0, max(reached, in_force)
            if reached > highest:
                expected[on] = expected.get(on, 0) + 1000 * (reached - highest)
                highest = reached
            in_force = levels[-1] if levels else in_force
    assert found.usage((*STARTS, date(2024, 4, 1)), date(2024, 3, 31)) == expected


# Days that are not held


def cut(whole, before, held_from):
    """Keep the days from one on of some readings, and say what came of those before."""
    cycle_on = max(start for start in STARTS if start < held_from)
    found = Readings(held_from)
    for person, report in before.items():
        found.put_before(person, report)
    persons = {person for told in whole.days.values() for person in told}
    for person in persons:
        told = {on: whole.days[on][person] for on in sorted(whole.days) if person in whole.days[on]}
        for on, reported in told.items():
            if on >= held_from:
                found.put(person, on, reported)
        earlier = {on: reported for on, reported in told.items() if on < held_from}
        if earlier:
            peaks = [reported.peak for on, reported in earlier.items() if on >= cycle_on]
            levels = {on: told.last_level for on, told in earlier.items() if told.last is not None}
            first = [level for on, level in levels.items() if on < cycle_on]
            last = list(levels.values())
            found.put_earlier(
                person,
                max((peak for peak in peaks if peak is not None), default=0),
                first[-1] if first else None,
                last[-1] if last else None,
            )
    return found


DAYS = st.integers(0, 75).map(lambda number: JANUARY + timedelta(days=number))
PERSONS = st.sampled_from((b"a", b"b"))


@given(
    st.lists(st.tuples(DAYS, PERSONS, st.integers(0, 4))),
    st.dictionaries(PERSONS, st.integers(0, 4)),
    DAYS.filter(lambda on: on > JANUARY),
    st.tuples(DAYS, PERSONS, st.integers(0, 6)),
)
def test_readings_of_the_last_days_say_of_them_what_all_readings_say(
    reports, levels, held_from, another
):
    before = {person: Report(-1, level) for person, level in levels.items()}
    whole = Readings()
    for person, report in before.items():
        whole.put_before(person, report)
    for on, person, level in reports:
        report_level(whole, on, level, person=person)
    some = cut(whole, before, held_from)

    through = MARCH + timedelta(days=20)
    wanted = {on: raised for on, raised in whole.usage(STARTS, through).items() if on >= held_from}
    assert {on: raised for on, raised in some.usage(STARTS, through).items() if raised} == {
        on: raised for on, raised in wanted.items() if raised
    }
    on, person, level = another
    newest = max([held_from, on, *whole.days])
    cycle_on = max(start for start in STARTS if start <= newest)
    assert some.raised(person, level, newest, cycle_on) == (
        whole.raised(person, level, newest, cycle_on)
    )
    assert some.level_before(person, newest) == whole.level_before(person, newest)
    assert some.in_force(newest) == whole.in_force(newest)

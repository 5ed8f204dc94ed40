"""Which thresholds were crossed: what people are told, once a crossing, and never take back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metering.booked import evening_before
from metering.lifecycle import Happening
from metering.periods import ONE_DAY
from metering.quantities import quantity_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date

    from metering.accounts import Account, DayPour
    from metering.catalog import Catalog

    # Says of the beginning and of the end of a day whether a threshold is reached.
    Reached = Callable[[DayPour], tuple[bool, bool]]


# More than anybody uses in a day.
QUANTITY_MAX: Final = 2**62


def look(account: Account, catalog: Catalog, product: str, *, today: date) -> list[Happening]:
    """Look at the days that were poured since the last look and tell what nobody was told yet."""
    books = account.books[product]
    if books.unlooked_from is None:
        return []
    poured = [books.days[on] for on in sorted(books.days) if on >= books.unlooked_from]
    books.unlooked_from = None
    if not poured:
        return []
    books.quiet = growth_to_next(account, catalog, product, poured[-1]) - 1
    return [
        *_firsts(account, product, poured),
        *_crossings(account, catalog, product, poured, today),
    ]


def growth_to_next(account: Account, catalog: Catalog, product: str, pour: DayPour) -> int:
    """Say how much more usage of a day reaches the next threshold, whatever it is poured into."""
    thresholds, now = catalog.thresholds, pour.after
    if product == "pu":
        levels = [now.pool - percent * pour.bought // 100 for percent in thresholds.lot_low]
    else:
        levels = [-(-percent * pour.quota // 100) - now.drawn for percent in thresholds.quota_used]
    limit = None
    if account.may_have_limit(catalog, product):
        limit = account.limit_on(catalog, product, pour.on)
    if limit is not None:
        levels += [
            max(1, -(-percent * limit // 100)) - now.usage for percent in thresholds.limit_reached
        ]
    return min((level for level in levels if level > 0), default=QUANTITY_MAX)


def _firsts(account: Account, product: str, poured: Sequence[DayPour]) -> Iterator[Happening]:
    """Find the first borrowed unit of a window, and the first postpaid unit of a cycle."""
    for pour in poured:
        for key in pour.fills:
            if key.source == "borrowed":
                detail = {
                    "lot": key.lot,
                    "window": account.lots[key.lot].starts[key.window].isoformat(),
                }
                if _is_news(account, ("borrowing", product, key.lot, detail["window"]), pour.on):
                    yield Happening("borrowing", product, pour.on, detail)
            elif key.source == "postpaid" and _is_news(
                account, ("postpaid", product, pour.cycle_on), pour.on
            ):
                yield Happening("postpaid", product, pour.on, {})


def _is_news(account: Account, key: tuple[object, ...], on: date) -> bool:
    if key in account.told:
        return False
    account.told[key] = [on]
    return True


def _crossings(
    account: Account, catalog: Catalog, product: str, poured: Sequence[DayPour], today: date
) -> Iterator[Happening]:
    thresholds = catalog.thresholds
    before = evening_before(account, product, poured[0].on)

    if product == "pu":
        for percent in thresholds.lot_low:
            for pour in _news(
                account,
                ("lot_low", product, percent),
                poured,
                before,
                _pool_falls_to(percent),
                today,
            ):
                yield Happening("lot_low", product, pour.on, {"percent": percent})
    else:
        for percent in thresholds.quota_used:
            reached = _draws_reach(percent)
            for pour in _news(
                account, ("quota_used", product, percent), poured, before, reached, today
            ):
                yield Happening("quota_used", product, pour.on, {"percent": percent})

    limits: dict[date, int | None] = {}
    if account.may_have_limit(catalog, product):
        limits = {
            pour.on: account.limit_on(catalog, product, pour.on) for pour in (before, *poured)
        }
    if any(limit is not None for limit in limits.values()):
        for percent in thresholds.limit_reached:
            reached = _usage_reaches(percent, limits)
            for pour in _news(
                account, ("limit_reached", product, percent), poured, before, reached, today
            ):
                limit = quantity_text(limits[pour.on] or 0)
                yield Happening(
                    "limit_reached", product, pour.on, {"percent": percent, "limit": limit}
                )


def _news(
    account: Account,
    key: tuple[object, ...],
    poured: Sequence[DayPour],
    before: DayPour,
    reached: Reached,
    today: date,
) -> Iterator[DayPour]:
    """Find the days on which a threshold was crossed, but for crossings that were told already."""
    for pour, until in _runs(poured, before, reached, today):
        told = account.told.setdefault(key, [])
        # Late usage may have moved a crossing that was told to an earlier day: it is the same one.
        if not any(pour.on <= on <= until for on in told):
            told.append(pour.on)
            yield pour


def _runs(
    poured: Sequence[DayPour], before: DayPour, reached: Reached, today: date
) -> Iterator[tuple[DayPour, date]]:
    """List each crossing, with the last day until which the threshold stayed reached."""
    was_reached = reached(before)[1]
    crossing: DayPour | None = None
    for pour in poured:
        at_first, at_last = reached(pour)
        if not (was_reached and at_first):
            if crossing is not None:
                yield crossing, pour.on - ONE_DAY
            crossing = pour if at_last else None
        was_reached = at_last
    if crossing is not None:
        yield crossing, today


def _draws_reach(percent: int) -> Reached:
    def reached(pour: DayPour) -> tuple[bool, bool]:
        level = percent * pour.quota
        return 0 < level <= pour.before.drawn * 100, 0 < level <= pour.after.drawn * 100

    return reached


def _pool_falls_to(percent: int) -> Reached:
    def reached(pour: DayPour) -> tuple[bool, bool]:
        level, has_lots = percent * pour.bought, pour.bought > 0
        return (
            has_lots and pour.before.pool * 100 <= level,
            has_lots and pour.after.pool * 100 <= level,
        )

    return reached


def _usage_reaches(percent: int, limits: dict[date, int | None]) -> Reached:
    def reached(pour: DayPour) -> tuple[bool, bool]:
        limit = limits[pour.on]
        if limit is None:
            return False, False
        # A limit of 0 is reached with the first unit.
        return (
            pour.before.usage > 0 and pour.before.usage * 100 >= limit * percent,
            pour.after.usage > 0 and pour.after.usage * 100 >= limit * percent,
        )

    return reached

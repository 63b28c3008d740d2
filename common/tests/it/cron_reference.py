"""Slots of cron expressions, found by brute force: the reference for common::cron.

Reads lines of `ZONE|EXPRESSION`. For each it prints a line of windows, `FROM:TO:SLOT SLOT ...`
joined by `;`, in minutes since 1970: every slot after FROM up to TO.

The rule: a local minute that matches is due at the first instant at which the zone's clock shows
that minute or a later one. Near a clock change that is what this does, minute by minute. Where the
offset stays what it is for days around, it is subtracted.
"""

import calendar
import datetime
import functools
import sys

try:
    import zoneinfo

    zoneinfo.ZoneInfo("Europe/Berlin")
except Exception as error:  # No module, or no data of the system.
    print(f"no time zones: {error!r}", file=sys.stderr)
    sys.exit(77)

EPOCH = datetime.date(1970, 1, 1)
FIRST = (datetime.date(2015, 1, 1) - EPOCH).days
LAST = (datetime.date(2025, 1, 1) - EPOCH).days
DAY = 24 * 60
# An expression with more times of day than this is compared near clock changes and new years only.
DENSE = 24

MONTHS = tuple("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split())
WEEKDAYS = tuple("SUN MON TUE WED THU FRI SAT".split())


class Clock:
    """A zone, and what is due when."""

    def __init__(self, name):
        self.zone = zoneinfo.ZoneInfo(name)
        self.offsets = {day: self.offset(day * DAY) for day in range(FIRST - 6, LAST + 7)}
        self.restless = {
            day
            for day in range(FIRST - 3, LAST + 4)
            if len({self.offsets[day + away] for away in range(-2, 4)}) > 1
        }
        self.due_on = {}

    def offset(self, minute):
        time = datetime.datetime.fromtimestamp(minute * 60, self.zone)
        return int(time.utcoffset().total_seconds()) // 60

    def due(self, day):
        """For each minute of a local day, the instant at which it is due."""
        if day not in self.restless:
            begins = day * DAY - self.offsets[day]
            return range(begins, begins + DAY)
        if day not in self.due_on:
            # Two days before, every clock shows an earlier day.
            shown = day * DAY - 1
            minutes = []
            instant = (day - 2) * DAY
            while len(minutes) < DAY:
                local = instant + self.offset(instant)
                while shown < local and len(minutes) < DAY:
                    minutes.append(instant)
                    shown += 1
                instant += 1
            self.due_on[day] = minutes
        return self.due_on[day]

    def windows(self):
        """Days around clock changes, and around new years."""
        ends = {(datetime.date(year, 1, 1) - EPOCH).days for year in range(2016, 2025, 3)}
        near = sorted(
            day for day in range(FIRST, LAST) if day in self.restless or {day, day + 1} & ends
        )
        start = None
        for day in near:
            if start is None:
                start = day
            if day + 1 not in near:
                yield start, day + 1
                start = None


def number(text, names):
    return names.index(text.upper()) + (names is MONTHS) if text.upper() in names else int(text)


@functools.lru_cache(maxsize=None)
def values(field, low, high, names=()):
    """The numbers of a field of lists, ranges and steps; what else it has is left out."""
    found = set()
    for entry in field.split(","):
        body, _, step = entry.partition("/")
        step = int(step or 1)
        if body in ("*", "?"):
            first, last = low, high
        elif "-" in body:
            first, last = (number(end, names) for end in body.split("-"))
        elif body.upper() in names or body.isdecimal():
            first = last = number(body, names)
        else:
            continue
        if first <= last:
            found.update(range(first, last + 1, step))
        else:
            found.update([*range(first, high + 1), *range(low, last + 1)][::step])
    return found


def every(field):
    return int(field[1:]) if field.startswith("%") else None


def nearest_weekday(date, wanted, length):
    """Whether the date is the weekday nearest to a day of its month, without leaving the month."""
    if wanted > length:
        return False
    day = datetime.date(date.year, date.month, wanted)
    candidates = [
        other
        for other in (day + datetime.timedelta(away) for away in (-2, -1, 0, 1, 2))
        if other.month == day.month and other.weekday() < 5
    ]
    return date == min(candidates, key=lambda other: abs((other - day).days))


def day_of_month_matches(field, date):
    if every(field):
        return (date - EPOCH).days % every(field) == 0
    if date.day in values(field, 1, 31):
        return True
    length = calendar.monthrange(date.year, date.month)[1]
    for entry in field.upper().split(","):
        if entry == "L" and date.day == length:
            return True
        if entry == "LW" and nearest_weekday(date, length, length):
            return True
        if entry.endswith("W") and entry[:-1].isdecimal():
            if nearest_weekday(date, int(entry[:-1]), length):
                return True
    return False


def day_of_week_matches(field, date):
    if every(field):
        return (date - EPOCH).days % every(field) == 0
    weekday = date.isoweekday() % 7
    if weekday in {value % 7 for value in values(field, 0, 6, WEEKDAYS)}:
        return True
    length = calendar.monthrange(date.year, date.month)[1]
    for entry in field.upper().split(","):
        if "#" in entry:
            wanted, _, count = entry.partition("#")
            if weekday == number(wanted, WEEKDAYS) % 7 and (date.day + 6) // 7 == int(count):
                return True
        elif entry.endswith("L") and entry[:-1].isdecimal():
            if weekday == int(entry[:-1]) % 7 and date.day + 7 > length:
                return True
    return False


def day_matches(date, day, month, weekday):
    if every(month):
        if ((date.year - 1970) * 12 + date.month - 1) % every(month):
            return False
    elif date.month not in values(month, 1, 12, MONTHS):
        return False
    open_day, open_weekday = day in ("*", "?"), weekday in ("*", "?")
    if open_day or open_weekday:
        return (open_day or day_of_month_matches(day, date)) and (
            open_weekday or day_of_week_matches(weekday, date)
        )
    return day_of_month_matches(day, date) or day_of_week_matches(weekday, date)


def times_of_day(day, minute, hour):
    """The minutes of a local day that match, by looking at every hour, and every minute of it."""
    period_of_hours, period_of_minutes = every(hour), every(minute)
    hours = None if period_of_hours else values(hour, 0, 23)
    minutes = None if period_of_minutes else values(minute, 0, 59)
    found = []
    for of_day in range(24):
        if (day * 24 + of_day) % period_of_hours if period_of_hours else of_day not in hours:
            continue
        for of_hour in range(60):
            local = day * DAY + of_day * 60 + of_hour
            if not (local % period_of_minutes if period_of_minutes else of_hour not in minutes):
                found.append(of_day * 60 + of_hour)
    return found


@functools.lru_cache(maxsize=None)
def matches(expression):
    """For each day of the years that matches, its minutes that match."""
    minute, hour, day, month, weekday = expression.split()
    changes_daily = every(minute) or every(hour)
    usual = times_of_day(0, minute, hour)
    found = {}
    for number in range(FIRST - 2, LAST + 2):
        date = EPOCH + datetime.timedelta(number)
        if day_matches(date, day, month, weekday):
            found[number] = times_of_day(number, minute, hour) if changes_daily else usual
    return found


def slots(clock, expression, first, last):
    matching = matches(expression)
    found = set()
    # What is skipped may be due a day later.
    for number in range(first - 2, last + 2):
        if number in matching:
            due = clock.due(number)
            found.update(due[of_day] for of_day in matching[number])
    return found


def main():
    clocks = {}
    for line in sys.stdin.read().splitlines():
        name, _, expression = line.partition("|")
        clock = clocks.setdefault(name, None) or Clock(name)
        clocks[name] = clock
        dense = len(times_of_day(0, *expression.split()[:2])) > DENSE
        answers = []
        for first, last in clock.windows() if dense else [(FIRST, LAST)]:
            start, end = first * DAY, last * DAY
            found = sorted(
                slot for slot in slots(clock, expression, first, last) if start < slot <= end
            )
            answers.append(f"{start}:{end}:{' '.join(map(str, found))}")
        print(";".join(answers))


main()

"""Digits to the English words that somebody reading them aloud most likely says.

There is more than one way to read ``1905`` or ``$5.50``. The choice here is the American one, without "and" inside
numbers, since the embedded acoustic model is American; a transcript that spells its numbers out is always better.
"""

import re

from num2words import num2words

NUMBER = re.compile(
    r"""(?P<minus>(?<!\S)-)?(?P<currency>[$£€¥])?
        (?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<fraction>\d+))?
        (?:(?P<suffix>st|nd|rd|th|'?s)(?![^\W\d_]))?(?P<percent>%)?""",
    re.VERBOSE,
)
"""A number as written in lower case: ``3rd``, ``$5.50``, ``1,000``, ``1990s``, ``50%``."""

CLOCK = re.compile(r"(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?!\d)")
"""A time of day: ``10:05``."""

SCALES = frozenset({"hundred", "thousand", "million", "billion", "trillion"})
"""Words that come between a sum of money and its unit: ``$5 million``."""

_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
}

_LONGEST_CARDINAL = 6
"""Digits in a row, without commas, that are still read as one number; longer ones are telephone numbers and codes."""


def _words(spelled: str) -> list[str]:
    return [word for word in re.split(r"[\s,-]+", spelled) if word not in ("", "and")]


def _digits(digits: str) -> list[str]:
    return [num2words(int(digit)) for digit in digits]


def _is_year(digits: str) -> bool:
    return len(digits) == 4 and (1100 <= int(digits) <= 1999 or 2010 <= int(digits) <= 2099)


def _whole(written: str) -> list[str]:
    """A whole number: cardinal, year, or digit by digit."""
    digits = written.replace(",", "")
    as_code = len(digits) > 1 and digits[0] == "0"
    if as_code or len(digits) > (15 if "," in written else _LONGEST_CARDINAL):
        return _digits(digits)
    return _words(num2words(int(digits), to="year" if _is_year(written) else "cardinal"))


def _plural(words: list[str]) -> list[str]:
    last = words[-1]
    ending = last[:-1] + "ies" if last.endswith("y") else last + ("es" if last.endswith("x") else "s")
    return [*words[:-1], ending]


def currency_unit(match: re.Match[str]) -> str:
    """The unit of a sum of money in the plural, ``dollars``; empty where the number is none."""
    return _CURRENCIES[match["currency"]][1] if match["currency"] else ""


def _money(match: re.Match[str]) -> list[str]:
    one, many, small_one, small_many = _CURRENCIES[match["currency"]]
    whole, fraction = match["whole"], match["fraction"]
    if fraction and len(fraction) != 2:
        return [*_whole(whole), "point", *_digits(fraction), many]
    words = [*_words(num2words(int(whole.replace(",", "")[:15]))), one if whole == "1" else many]
    if fraction and int(fraction):
        words += ["and", *_words(num2words(int(fraction))), small_one if fraction == "01" else small_many]
    return words


def read_number(match: re.Match[str], *, with_unit: bool = True) -> list[str]:
    """The words of a match of :data:`NUMBER`.

    Args:
        match: the number as written.
        with_unit: say the currency's name too; False where a scale word comes before it (``$5 million``).

    >>> [" ".join(read_number(NUMBER.match(n))) for n in ("21", "3rd", "$5", "1990s", "2.05", "007")]
    ['twenty one', 'third', 'five dollars', 'nineteen nineties', 'two point zero five', 'zero zero seven']
    """
    whole, suffix = match["whole"], match["suffix"] or ""
    if match["currency"] and with_unit:
        words = _money(match)
    elif suffix in ("st", "nd", "rd", "th") and not match["fraction"] and len(whole) <= 15:
        words = _words(num2words(int(whole.replace(",", "")), to="ordinal"))
    else:
        words = _whole(whole)
        if match["fraction"]:
            words += ["point", *_digits(match["fraction"])]
        if suffix.endswith("s"):
            words = _plural(words)
    return [*(["minus"] if match["minus"] else []), *words, *(["percent"] if match["percent"] else [])]


def read_clock(match: re.Match[str]) -> list[str]:
    """The words of a match of :data:`CLOCK`.

    >>> read_clock(CLOCK.match("10:05")), read_clock(CLOCK.match("7:30"))
    (['ten', 'oh', 'five'], ['seven', 'thirty'])
    """
    hour, minute = int(match["hour"]), int(match["minute"])
    words = _words(num2words(hour))
    if minute:
        words += [*(["oh"] if minute < 10 else []), *_words(num2words(minute))]
    return words

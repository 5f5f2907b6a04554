"""Results as statistics, a table and JSON; nothing here runs a guest.

A row holds the values of both guests in the order of the rounds, so that the n-th of one and the
n-th of the other were measured one after the other.
"""

import dataclasses
import statistics

LINUX, CLLM = "linux", "cllm"
GUESTS = (LINUX, CLLM)


@dataclasses.dataclass
class Row:
    """One line of the table.

    key: for --only, --skip and JSON. name, unit: for people. less: whether less is better. exact: a
    property of files, which one value describes. values: {guest: list}. tokens: {guest: tokens that
    each value was timed with}, for rates of tokens.
    """

    key: str
    name: str
    unit: str
    less: bool = False
    exact: bool = False
    values: dict = dataclasses.field(default_factory=lambda: {guest: [] for guest in GUESTS})
    tokens: dict = dataclasses.field(default_factory=dict)

    def add(self, guest, value, tokens=None):
        self.values[guest].append(value)
        if tokens:
            self.tokens[guest] = tokens

    def title(self):
        """Return name, unit, and how many tokens were timed."""
        timed = [str(self.tokens[guest]) for guest in GUESTS if guest in self.tokens]
        of = f" (of {' and '.join(timed)})" if timed else ""
        return f"{self.name}, {self.unit}{of}"

    def median(self, guest):
        """Return the median, None without a value."""
        values = self.values[guest]
        return statistics.median(values) if values else None

    def ratio(self):
        """Return how many times better cllm is than Linux, by the medians.

        None where a guest has fewer than two values (one run does not predict the next), unless the
        row is exact; and where a median is 0.
        """
        if not all(len(self.values[guest]) >= (1 if self.exact else 2) for guest in GUESTS):
            return None
        linux, cllm = self.median(LINUX), self.median(CLLM)
        better, worse = (linux, cllm) if self.less else (cllm, linux)
        return better / worse if better and worse else None

    def ratio_spread(self):
        """Return (least, most) of the rounds' own ratios; None where ratio() is None."""
        if self.ratio() is None:
            return None
        pairs = zip(self.values[LINUX], self.values[CLLM])
        ratios = [(a / b) if self.less else (b / a) for a, b in pairs if a and b]
        return min(ratios), max(ratios)

    def as_json(self):
        spread = self.ratio_spread()
        return {
            "key": self.key,
            "name": self.name,
            "unit": self.unit,
            "better": "less" if self.less else "more",
            "tokens": self.tokens,
            **{guest: [round(value, 6) for value in self.values[guest]] for guest in GUESTS},
            "median": {guest: self.median(guest) for guest in GUESTS},
            "ratio": self.ratio(),
            "ratio_spread": spread and list(spread),
        }


def number(value):
    """Return a number in three significant digits, without an exponent."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    size = abs(value)
    digits = 0
    while size < 100 and digits < 4:
        size *= 10
        digits += 1
    return f"{value:.{digits}f}"


def cell(row, guest):
    """Return the median and, where there are several values, the range."""
    values = row.values[guest]
    if not values:
        return "-"
    text = number(row.median(guest))
    if len(values) > 1 and min(values) != max(values):
        text += f" ({number(min(values))}..{number(max(values))})"
    return text


def ratio_cell(row):
    ratio = row.ratio()
    if ratio is None:
        missing = not all(row.values[guest] for guest in GUESTS)
        return "-" if missing else "one run"
    low, high = row.ratio_spread()
    text = number(ratio)
    return text if row.exact or low == high else f"{text} ({number(low)}..{number(high)})"


def table(rows):
    """Return the table as text: a header, then a line for each row that has a value."""
    lines = [("", "Linux", "cllm", "cllm is better, times")]
    for row in rows:
        if any(row.values.values()):
            cells = [cell(row, guest) for guest in GUESTS]
            lines.append((row.title(), *cells, ratio_cell(row)))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join("  " + text.rjust(width) for text, width in zip(line[1:], widths[1:]))
        for line in lines
    )


def markdown(rows):
    """Return the table as Markdown."""
    lines = ["| | Linux | cllm | times better |", "|---|---|---|---|"]
    for row in rows:
        if any(row.values.values()):
            cells = [cell(row, guest).replace("..", "–") for guest in GUESTS]
            ratio = ratio_cell(row).replace("..", "–")
            lines.append(f"| {row.title()} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)

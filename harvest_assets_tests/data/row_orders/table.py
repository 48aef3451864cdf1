"""The committed table: which versions of `datasets` give which orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

TABLE = Path(__file__).with_name("table.json")
PAGE = Path(__file__).parents[3] / "docs" / "row_order.md"
_N_SHOWN = 8


class Order(TypedDict):
    """One order of the rows of an example."""

    example: str
    datasets: list[str]
    ids: list[int]


class Table(TypedDict):
    """All orders, and the NumPy version beside each version of `datasets`."""

    numpy: dict[str, str]
    orders: list[Order]


def read_table() -> Table:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def write_table(table: Table) -> None:
    """Write the data, an order a line, and replace the table of the documentation."""
    lines = ",\n".join(f"    {json.dumps(order)}" for order in table["orders"])
    text = f'{{\n  "numpy": {json.dumps(table["numpy"])},\n  "orders": [\n{lines}\n  ]\n}}\n'
    TABLE.write_text(text, encoding="utf-8")
    kept = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] != "|"]
    place = kept.index("<!-- make row-orders -->") + 1
    kept[place:place] = markdown(table)
    PAGE.write_text("\n".join(kept) + "\n", encoding="utf-8")


def markdown(table: Table) -> list[str]:
    """The table in Markdown, an order a line."""
    lines = ["| rows | `datasets` | order |", "|---|---|---|"]
    for order in table["orders"]:
        versions = ", ".join(order["datasets"])
        shown = " ".join(map(str, order["ids"][:_N_SHOWN]))
        lines.append(f"| {order['example']} | {versions} | {shown} ... |")
    return lines

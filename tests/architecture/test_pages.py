"""The pages in docs/ say what is: every setting of routing with its default, and links that lead to a heading."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from proxy.base.policy import RoutingPolicy

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROW = re.compile(r"^\| `([a-z0-9_]+)` \| `([^`]*)` \| (.*) \|$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def test_routing_page_has_every_setting_with_its_default() -> None:
    text = (ROOT / "docs" / "routing.md").read_text()
    rows = {name: (default, when) for name, default, when in ROW.findall(text[text.index("\n## Settings\n") :])}
    fields = {field.name: field.default for field in msgspec.structs.fields(RoutingPolicy)}
    assert list(rows) == list(fields), "one row for each field of RoutingPolicy, in the same order"
    for name, (default, when) in rows.items():
        assert default == json.dumps(fields[name]), f"docs/routing.md says that {name} is {default} by default"
        assert len(when) > len("when"), f"docs/routing.md does not say when to touch {name}"


def anchors(page: Path) -> set[str]:
    """What GitHub makes of its headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        there = page.parent / target if target else page
        assert anchor in anchors(there), (
            f"{page.name} links to #{anchor} of {there.name}, where there is no such heading"
        )

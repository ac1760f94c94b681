"""The README's config is a good one, its links lead somewhere, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.config.load import load_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_config_of_the_readme_is_good(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert found is not None
    path = tmp_path / "proxy.toml"
    path.write_text(found[1])
    config = load_config(path)
    assert [site.name for site in config.sites] == ["www.example.org"]
    assert len(config.nodes) == 2


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_on_the_list() -> None:
    listed = set(re.findall(r"^\| \[(docs/[a-z0-9]+\.md)\]", README, re.MULTILINE))
    assert listed == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


def test_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert named
    assert named <= targets

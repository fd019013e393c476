"""A report's page taken apart."""

import json
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "br", "link", "base"}


class Parsed(HTMLParser):
    """A page's elements, texts and figures; every element must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.source = page
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}  # by innermost element
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        shown = [t for tag, ts in self.texts.items() if tag not in ("script", "style") for t in ts]
        return " ".join(" ".join(shown).split())

    @property
    def figures(self) -> list[dict[str, Any]]:
        drawn: list[dict[str, Any]] = json.loads(self.texts["script"][0])
        return drawn

    def figure(self, label: str) -> dict[str, Any]:
        places = [a for a in self.all("div") if a.get("class") == "figure"]
        assert len(places) == len(self.figures)
        (index,) = [i for i, a in enumerate(places) if a["aria-label"] == label]
        assert places[index]["id"] == f"figure-{index}"
        return self.figures[index]

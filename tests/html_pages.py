"""A page as a strict reader sees it: balanced, self-contained, everything that it names there."""

import base64
import io
from html.parser import HTMLParser

from PIL import Image

EVIL = '<script>alert("1")</script>'
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Document(HTMLParser):
    """Reads a page strictly: every tag closed in order; keeps tags, addresses, table cells and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def parse(html: str, folder=None) -> Document:
    """Parse a page and check what every page must keep to; pictures beside it lie in the folder that it is in."""
    assert html.startswith("<!DOCTYPE html>")
    assert "@import" not in html
    assert "url(" not in html
    assert "://" not in html
    document = Document(html)
    anchors = {attributes["id"] for _, attributes in document.tags if "id" in attributes}
    for tag, attributes in document.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link"}
        if folder is None:
            assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#")[0] == "#"
        assert attributes.get("href", "#")[1:] in anchors | {""}
        assert not any(name.startswith("on") for name in attributes)
    for image in document.named("img"):
        is_inside = image["src"].startswith("data:")
        content = base64.b64decode(image["src"].split(",")[1], validate=True) if is_inside else None
        picture = io.BytesIO(content) if is_inside else folder / image["src"]
        assert Image.open(picture).size == (int(image["width"]), int(image["height"]))
        assert (image.get("loading") == "lazy") != is_inside
        assert "alt" in image
    return document

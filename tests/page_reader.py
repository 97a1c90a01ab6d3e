#!/usr/bin/env python3
"""An independent reader of the pages that nibble-check compare writes.

    page_reader.py FILE        check the page; print "models N" and the full name of each, JSON-quoted, one a line

It holds the page to HTML5's nesting, each drawing to XML, identifiers to be unique and found where they are referred to, every
number of a drawing to be finite and inside it, and the whole to load nothing. Standard library only. Exit 0 if all holds, 1 with one
line that names the fault if not.
"""

import html.parser
import json
import math
import re
import sys
import xml.etree.ElementTree

VOID = {"meta", "br", "hr", "img", "link", "input"}
SVG = "{http://www.w3.org/2000/svg}"


class Broken(Exception):
    pass


class Page(html.parser.HTMLParser):
    """Nesting, identifiers, references, and the rows of the table."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.refers, self.rows, self.count = [], set(), [], [], 0

    def handle_starttag(self, tag, attributes):
        self.count += 1
        names = [name for name, _ in attributes]
        values = dict(attributes)
        if len(names) != len(values):
            raise Broken(f"<{tag}> has an attribute twice: {names}")
        if tag in {"script", "link", "iframe", "img", "object", "embed", "base", "form"}:
            raise Broken(f"<{tag}> has no place in the page")
        for name, value in attributes:
            if name.startswith("on") or name in {"src", "href", "style", "xlink:href"}:
                raise Broken(f"<{tag}> has the attribute {name}={value!r}")
        if "id" in values:
            if values["id"] in self.ids:
                raise Broken(f"two elements are called {values['id']!r}")
            self.ids.add(values["id"])
        self.refers += values.get("aria-labelledby", "").split()
        if tag == "th" and values.get("scope") == "row":
            self.rows.append(values["title"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            raise Broken(f"</{tag}> at {self.getpos()} closes nothing that is open")


def check_drawing(text):
    root = xml.etree.ElementTree.fromstring(text)
    if "viewBox" not in root.attrib:
        raise Broken("a drawing has no viewBox")
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    for element in root.iter():
        kind = element.tag.removeprefix(SVG)
        if kind not in {"svg", "title", "desc", "g", "path", "text", "circle"}:
            raise Broken(f"a drawing holds <{kind}>")
        for name in ("x", "y", "cx", "cy", "r"):
            if name in element.attrib and not math.isfinite(float(element.attrib[name])):
                raise Broken(f"{name}={element.attrib[name]!r}")
        path = element.attrib.get("d", "")
        if not re.fullmatch(r"[-MLHVamhvlz0-9. ]*", path):
            raise Broken(f"a path holds something else than its commands and numbers: {path!r}")
        for x, y in re.findall(r"[ML]([-0-9.]+) ([-0-9.]+)", path):
            if not (left <= float(x) <= left + width and top <= float(y) <= top + height):
                raise Broken(f"{x} {y} lies outside of its drawing")
    for text_element in root.iter(SVG + "text"):
        if not ("".join(text_element.itertext())).strip():
            raise Broken("a text is empty")


def main():
    with open(sys.argv[1], "rb") as file:
        text = file.read().decode("utf-8")
    if not text.startswith("<!DOCTYPE html>\n"):
        raise Broken("it does not begin with <!DOCTYPE html>")
    page = Page()
    page.feed(text)
    page.close()
    if page.open:
        raise Broken(f"never closed: {page.open}")
    missing = [name for name in page.refers if name not in page.ids]
    if missing:
        raise Broken(f"named but not there: {missing}")
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        check_drawing(drawing)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    if style.count("{") != style.count("}") or "url(" in style or "@import" in style:
        raise Broken("the style sheet is unbalanced or loads something")
    print("models", len(page.rows))
    for row in page.rows:
        print(json.dumps(row))


try:
    main()
except (Broken, UnicodeDecodeError, xml.etree.ElementTree.ParseError) as fault:
    print(f"page_reader.py: {sys.argv[1]}: {fault}")
    sys.exit(1)

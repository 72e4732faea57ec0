"""How the tests of pages read them: as a browser would."""

from html.parser import HTMLParser

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)>'


class _Tags(HTMLParser):
    """Collects tags with their attributes, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


def parsed(page: str) -> _Tags:
    """Read a page as a browser would."""
    tags = _Tags()
    tags.feed(page)
    return tags

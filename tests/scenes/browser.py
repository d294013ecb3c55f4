"""A browser without scripts, and what it makes of a page."""

import re
from html.parser import HTMLParser

import aiohttp

from scenes.dashboard import TOKENS

PATHS = ("/", "/approvals", "/backends", "/conservation", "/control", "/control/pause", "/control/resume")
VOID = {"meta", "link", "input", "img", "br", "hr", "circle", "path", "line", "rect"}


class Document(HTMLParser):
    """What a page holds: elements with their attributes, and the text of its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unclosed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.unclosed.append(tag)
        else:
            self.open.pop()

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


class Browser:
    """A client with cookies and without scripts; redirects are not followed by themselves."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path, **headers):
        async with self.session.get(self.base + path, headers=headers, allow_redirects=False) as response:
            return response, await response.text()

    async def post(self, path, fields, **headers):
        async with self.session.post(
            self.base + path, data=fields, headers=headers, allow_redirects=False
        ) as response:
            return response, await response.text()

    async def token(self, path="/control"):
        _, page = await self.get(path)
        return re.search(r'name="csrf_token" value="([0-9a-f]+)"', page)[1]

    async def sign_in(self, name, next_path="/"):
        fields = {"csrf_token": await self.token("/login"), "token": TOKENS[name][1], "next": next_path}
        return await self.post("/login", fields)


async def filled(found):
    await found.alert("payments-api")
    resolved = await found.heal()
    await found.alert("search")
    approval = await found.ask()
    return resolved, approval

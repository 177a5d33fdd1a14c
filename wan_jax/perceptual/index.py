"""Downloads a file of a Python package, found the way that pip finds it (PEP 503).

pip itself is no help: before it hands over a source package, it runs its set-up.
"""

import ast
import http.client
import ssl
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

from tqdm import tqdm

from wan_jax.errors import WanError

_DEFAULT_INDEX = "https://pypi.org/simple"
_LARGEST_PAGE = 1 << 24  # bytes
_CHUNK = 1 << 20
_SECONDS = 60  # without an answer


def download(package: str, filename: str, size: int, destination: Path):
    """Fetches `filename` of `package` from the first of the user's indexes that lists it, with a progress bar.

    Its content is not checked, other than that it is `size` bytes long.

    Raises:
        WanError: no index can be reached, or none has the file.
    """
    settings = _pip_settings()
    indexes = [settings.get("index-url", _DEFAULT_INDEX), *settings.get("extra-index-url", "").split()]
    failures = []
    for index in indexes:
        address, *login = _split_login(index)
        try:
            opener = _opener(address, login, settings.get("cert"))
            url = _find(opener, f"{address.rstrip('/')}/{package}/", filename)
            _save(opener, url, size, destination)
            return
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{address}: {error}")
    raise WanError(f"{filename} cannot be fetched ({'; '.join(failures)})")


def _split_login(url: str) -> tuple[str, str, str]:
    """(address, user, password) of https://user:password@host/path, as pip takes them; empty where there are none."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    return parts._replace(netloc=host).geturl(), unquote(user), unquote(password)


def _opener(address: str, login: list[str], certificates: str | None) -> urllib.request.OpenerDirector:
    """Opens URLs; no host but that of `address` is told the login."""
    passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
    if any(login):
        passwords.add_password(None, urlsplit(address)._replace(path="/").geturl(), *login, is_authenticated=True)
    secure = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=certificates))
    return urllib.request.build_opener(secure, urllib.request.HTTPBasicAuthHandler(passwords))


def _find(opener: urllib.request.OpenerDirector, page: str, filename: str) -> str:
    """The URL of a file that a package's page links to."""
    folder = page.startswith("file:")
    with opener.open(page + "index.html" * folder, timeout=_SECONDS) as response:
        links = _Links()
        links.feed(response.read(_LARGEST_PAGE).decode("utf-8", "replace"))
        urls = [urljoin(response.url, link) for link in links.found]
    for url in urls:
        if unquote(PurePosixPath(urlsplit(url).path).name) == filename:
            return url
    raise ValueError("the file is not listed")


def _save(opener: urllib.request.OpenerDirector, url: str, size: int, destination: Path):
    with (
        opener.open(url, timeout=_SECONDS) as response,
        destination.open("wb") as file,
        tqdm(total=size, desc=destination.name, unit="B", unit_scale=True) as bar,
    ):
        # One byte too many is enough to know that it is another file.
        while chunk := response.read(min(_CHUNK, size + 1 - bar.n)):
            file.write(chunk)
            bar.update(len(chunk))
    if bar.n != size:
        raise ValueError(f"{bar.n} bytes came, not {size}" if bar.n < size else f"more than {size} bytes came")


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _pip_settings() -> dict[str, str]:
    """pip's options from its files and from the environment, which has the last word; none without pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    sections: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in sections:
            sections[section][option] = ast.literal_eval(value)
    return sections["global"] | sections["download"] | sections[":env:"]

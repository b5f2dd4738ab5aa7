"""What the training page and the results page share. Neither needs a server or a network.

File names, options and loss names may hold anything: jinja2 escapes them in HTML, and in addresses
they are percent-encoded. A page may run no scripts but its own, as its policy has their hashes.
"""

import base64
import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

ASSETS = Path(__file__).parent / "assets"
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
)


def assets(*names: str) -> Markup:
    """The text of files of assets/, in this order, not to be escaped."""
    return Markup("\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names))


def policy(*scripts: str) -> str:
    """Content-Security-Policy: these inline scripts, and files that lie beside the page."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts]
    allowed = "'self' file: " + " ".join(f"'sha256-{digest.decode()}'" for digest in hashes)
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        "img-src 'self' file:; script-src " + (allowed if scripts else "'none'")
    )


def percent_encoded(name: str, safe: str = "/") -> str:
    """A file name as part of an address, also one that is not valid Unicode."""
    return quote(os.fsencode(name), safe=safe)


TEMPLATES.globals.update(assets=assets, policy=policy)

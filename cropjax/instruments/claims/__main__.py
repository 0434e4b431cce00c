"""`python -m cropjax.instruments.claims PAGE`: finds what the instruments say of every claim, and writes the page."""

from argparse import ArgumentParser
from pathlib import Path

from cropjax.instruments.claims.page import write

parser = ArgumentParser(prog="python -m cropjax.instruments.claims", description="The study's claims, computed.")
parser.add_argument("page", type=Path, help="the Markdown file to write")
write(parser.parse_args().page)

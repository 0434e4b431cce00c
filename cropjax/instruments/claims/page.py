"""All claims and their page."""

from itertools import chain

from cropjax.instruments.claims import dilation, fields, pyramid, rates, scales, training, transformers
from cropjax.instruments.claims.claim import HOLDS
from cropjax.instruments.claims.network import Networks
from cropjax.progress import Progress
from cropjax.workdir import write_text

SECTIONS = (fields, pyramid, rates, transformers, scales, dilation, training)
CLAIMS = tuple(chain.from_iterable(section.CLAIMS for section in SECTIONS))


def page(findings):
    """docs/claims.md: the table of `findings`, a `Finding` for each of `CLAIMS`, and how many of each verdict."""
    verdicts = [finding.verdict for finding in findings]
    holds, open_ = (sum(one.startswith(start) for one in verdicts) for start in (HOLDS, "cannot be decided"))
    lines = [
        "# The study's claims, computed",
        "",
        "What the crop-size study states in its sections 1 to 7, in our words, beside what the instruments find. Made",
        "by `make claims`; nothing in it is typed. Sections 8 to 10 sum up, recommend and list configurations.",
        "",
        f"Of {len(findings)} statements {holds} hold, {open_} cannot be decided here, and "
        f"{len(findings) - holds - open_} are off or do not hold.",
        "",
        "| section | claim | found | how | verdict |",
        "|---|---|---|---|---|",
    ]
    for claim, finding in sorted(zip(CLAIMS, findings, strict=True), key=lambda pair: pair[0].section):
        lines.append(f"| {claim.section} | {claim.words} | {finding.value} | {claim.how} | {finding.verdict} |")
    return "\n".join(lines) + "\n"


def write(path):
    """Finds everything, which takes minutes, and writes the page."""
    networks, findings = Networks(), []
    with Progress(len(CLAIMS), unit="claim", label="claims") as progress:
        for done, claim in enumerate(CLAIMS, 1):
            findings.append(claim.find(networks))
            progress.update(done)
    write_text(path, page(findings))

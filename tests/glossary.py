"""The words that bind: one term a thing, in code, CLI help, errors and docs. CONTRIBUTING.md shows this table."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Term:
    """What to say, what not to say in its place, and the patterns that find the latter (case is ignored).

    ``lawful`` matches the places where the word means something else; there it may stand.
    """

    say: str
    instead_of: str
    patterns: tuple[str, ...]
    lawful: tuple[str, ...] = field(default=())

    def found(self, line: str) -> str | None:
        """The first unlawful match in a line."""
        spans = [match.span() for pattern in self.lawful for match in re.finditer(pattern, line, re.IGNORECASE)]
        for pattern in self.patterns:
            for match in re.finditer(pattern, line, re.IGNORECASE):
                if not any(start <= match.start() and match.end() <= end for start, end in spans):
                    return match[0]
        return None


GLOSSARY = (
    Term("image", "picture", (r"\b_?pictures?_?\b",)),
    Term(
        "conditioning; class-conditional, unconditional; conditioning image; `cond`, `uncond`",
        "told, goes by, picture to go by",
        (r"\btold\b", r"\bgo(es)? by\b", r"\bgoing by\b"),
    ),
    Term("null class (for guidance)", "without class", (r"\bwithout (a )?class\b",)),
    Term(
        "network (layers); model (network + head + data scaling); family: pixel, gan",
        "latent model, wiring",
        (r"\blatent[ -]models?\b", r"\bwiring\b", r"\bwired\b"),
    ),
    Term(
        "EMA; EMA weights; standing statistics",
        "weight average, averaged weights, made ready, deployed",
        (r"\bweight averages?\b", r"\baveraged weights\b", r"\bmade ready\b", r"\bdeploy(s|ed)?\b"),
    ),
    Term(
        "overfitting heuristic r_t (Karras et al. 2020)",
        "dial, learned by heart, sure of",
        (r"\bdials?\b", r"\bby heart\b", r"\bsure of\b"),
    ),
    Term(
        "discriminator, generator; d_loss, g_loss",
        "critic, judge, maker",
        (r"\bcritics?\b", r"\bjudges?\b", r"\bmakers?\b"),
    ),
    Term(
        "KID (`kid-EXTRACTOR`); Fréchet distance (`fd-EXTRACTOR`); FID only with the published Inception",
        "kernel distance",
        (r"\bkernel distances?\b",),
    ),
    Term(
        "metric, result, real-vs-real baseline",
        "figure (a number), floor",
        (r"\bfigures?\b", r"\bfloors?\b"),
        (
            r"docs/figures",
            r"\.\./figures/",
            r"figures/[\w-]+\.png",
            r"matplotlib[\w.]*figure",
            r"\bFigure\b",
            r"fig(ure)? \d",
            r"floor\(",
            r"math\.floor",
        ),
    ),
    Term("memorization, nearest neighbors", "copying, nearby", (r"\bcopying\b", r"\bnearby\b")),
    Term("matching-aware discriminator (Reed et al. 2016)", "mismatched", (r"\bmismatched\b",)),
    Term("joint batch (one discriminator pass)", "together (as an option)", (r"--together\b", r"\btogether[=:]")),
    Term("lazy regularization interval", "every (as an option)", (r"penalties\.every\b",)),
    Term("skip connection, residual block", "short-cut", (r"\bshort-?cuts?\b",)),
    Term("callback", "look on", (r"\blooks? on\b", r"\blooking on\b")),
    Term("step", "round", (r"\brounds?\b(?!\()",), (r"\brounds? (to|up|down|half)\b",)),
    Term("typo", "slip", (r"\bslips?\b",)),
    Term("downsample@K", "smaller@K", (r"\bsmaller@",)),
    Term("attention map", "map of attention", (r"\bmaps? of attention\b",)),
    Term(
        "receptive field; wavefront; feature group; gather",
        "sight, front, part, fetch",
        (r"\bsights?\b", r"\bfronts?\b", r"\bfetch(es|ed|ing)?\b"),
        (r"\bin front\b", r"fetch\("),
    ),
    Term(
        "down-shifted, down-right-shifted convolution",
        "over above, over before",
        (r"\bover[ _]above\b", r"\bover[ _]before\b"),
    ),
    Term("layer norm over channels", "channel norm", (r"\bchannel norms?\b",)),
    Term("run, run folder, record (what a run trained on)", "facts, told by", (r"\bfacts?\b",)),
    Term(
        "American spelling: binarize, color, gray, optimizer, memorization, normalize",
        "British spelling",
        (
            r"\w*(binar|quant|optim|initial|normal|memor|discret|regular|standard|general)is(e|ed|es|ing|er|ers|ation)\b",
            r"\w*colour\w*",
            r"\bgrey\w*",
            r"\w*neighbour\w*",
            r"\bcentre[sd]?\b",
            r"\bbehaviour\w*",
            r"\blearnt\b",
        ),
        (r"\bgrey\b(?=.*0\.1)",),
    ),
)


def table() -> str:
    """The glossary as Markdown."""
    rows = [f"| {term.say} | {term.instead_of} |" for term in GLOSSARY]
    return "\n".join(["| say | not |", "|---|---|", *rows])

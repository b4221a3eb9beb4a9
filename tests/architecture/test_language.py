"""Plain technical English: phrases that would puzzle a contributor from another project, and what to say instead."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("torchfit", "docs", "examples", "benchmarks", "tests", "*.md")
INSTEAD = {
    r"\banew\b": "again",
    r"[Tt]ell whether": "return whether",
    r"[Hh]ear that|\bhears\b|\b(nobody|who) watches\b|\bunheard\b": "called when; has a hook",
    r"[Ll]et go of": "release",
    r"\bgo(es|ing)? on (as|with|for|to|from|where|behind)\b|\btraining goes on\b": "continue, resume, keep",
    r"\btak(e|en|es) up\b(?! (memory|room|space))": "resume",
    r"under way": "in progress",
    r"of (ones|one's|the user's) own\b": "user-defined, custom",
    r"costs nothing to speak of": "is effectively free",
    r"\b[Aa] training(s\b| (that|which|ends|begins|goes)\b)|\btrainings\b": "a run, a training run",
    r"\bclass numbers?\b": "class index",
    r"\b(gathered|gathering) gradients\b": "accumulated gradients",
    r"\bpictures? of\b": "plot, figure, image",
    r"\b[Ss]hall\b": "must, should, or the present tense",
    r"\bat last\b": "finally, at the end",
    r"\brightly\b": "correctly",
    r"\bin the manner of\b": "in the style of",
    r"\b(go|goes|going) over to\b": "switch to",
    r"\b[Hh]and(s|ed|ing)? over\b": "pass",
    r"\bsees? to it\b": "take care of, make sure",
    r"\b[Ll]eft in peace\b": "uninterrupted",
    r"\bevery so many\b": "every n",
    r"\b(set|taken) apart\b": "held out, split",
    r"\bthat (was|were) held out\b": "held-out",
    r"\bto be copied\b": "to copy",
    r"\b[Nn]umbers? of Python\b": "Python number",
    r"\bnames of Keras\b": "Keras names",
}


def files():
    for place in PLACES:
        found = ROOT.glob(place) if "*" in place else (ROOT / place).rglob("*")
        yield from (path for path in found if path.suffix in (".py", ".md", ".rst") and "_build" not in path.parts)


@pytest.mark.parametrize("phrase", INSTEAD)
def test_plain_words(phrase):
    pattern, found = re.compile(phrase), []
    for path in files():
        lines = path.read_text(encoding="utf-8").splitlines() if path != Path(__file__) else []
        found += [f"{path.relative_to(ROOT)}:{number}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert not found, f"say instead: {INSTEAD[phrase]}"

"""What a text says about a scene, read without the code that wrote it."""

import re

COLOUR = "red|orange|yellow|green|blue|purple|black|white"
BACKGROUND = re.compile(
    rf"(?:on|with) an? (?P<a>{COLOUR}) background|on (?P<b>{COLOUR})\b|background (?:to )?(?P<c>{COLOUR})"
)
WORDS = {
    "colour": {colour: colour for colour in COLOUR.split("|")},
    "shape": {
        name: rf"{name}(?:e?s)?"
        for name in ("circle", "square", "triangle", "star", "cross", "ring", "heart", "arrow", "moon", "house")
    },
    "pattern": {
        "plain": "plain|without a pattern|no pattern",
        "striped": "striped|stripes",
        "dotted": "dotted|dots",
        "checked": "checked|checks",
    },
    "size": {"small": "small|little|smaller|shrink", "large": "large|big|larger|bigger"},
    "number": {"one": "one|single", "two": "two", "three": "three", "four": "four"},
    "place": {name: name for name in ("left", "right", "top", "bottom")} | {"centre": "centre|middle"},
}


def said(text: str) -> dict[str, str]:
    """The attributes that a caption or an instruction names, and their values. Nothing may be named twice."""
    found = {}
    if match := BACKGROUND.search(text):
        found["background"] = match["a"] or match["b"] or match["c"]
        text = text.replace(match[0], "")
    for name, values in WORDS.items():
        named = [value for value, words in values.items() if re.search(rf"\b(?:{words})\b", text)]
        assert len(named) <= 1, (text, named)
        if named:
            found[name] = named[0]
    return found


def said_by_caption(text: str) -> dict[str, str]:
    """As `said`. An article in front of all says that there is one."""
    starts_with_article = re.match(r"(show me |a picture of )?an? (?!picture)", text)
    return ({"number": "one"} if starts_with_article else {}) | said(text)

"""Nested captions, built automatically: the kind of a thing, the thing, what it does, all of it.

    an animal
    a dog
    a black dog is running
    A black dog is running after a white dog in the snow .

Of each photo the first caption is taken that the three rules below understand. They know no
grammar: now and then a cut falls in the wrong place, and the kind of a thing comes from a table of
words that are frequent in captions of photos. What is measured on them is labelled as built.
"""

from __future__ import annotations

from collections.abc import Sequence

# Heads of noun phrases, and the kind of thing that each is.
KINDS = {
    "an animal": "dog cat bird horse cow sheep puppy kitten bear elephant duck poodle bulldog "
    "terrier retriever greyhound",
    "animals": "dogs cats birds horses cows sheep puppies kittens bears elephants ducks greyhounds",
    "a person": "man woman boy girl child kid baby toddler lady guy player skateboarder surfer "
    "snowboarder skier climber biker cyclist bicyclist motorcyclist rider swimmer diver runner "
    "hiker skater wakeboarder artist worker performer dancer cowboy boarder kayaker teenager "
    "youth athlete",
    "people": "men women boys girls children kids babies toddlers ladies guys players "
    "skateboarders surfers skiers climbers bikers cyclists riders swimmers runners hikers "
    "teenagers dancers friends adults",
    "a vehicle": "car truck bus van boat kayak canoe bicycle bike motorcycle train airplane plane "
    "raft sailboat",
    "vehicles": "cars trucks boats bicycles bikes motorcycles kayaks",
}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words.split()}
NUMBERS = {"two": "two", "three": "three", "four": "four", "five": "five", "several": "several",
           "some": "some", "many": "many"}  # fmt: skip
ARTICLES = {"a", "an", "the", "one", "another"}
# What begins another phrase: the clause is cut before it.
CUTTING = (
    "in on at with into onto over under through across down up along near next beside behind "
    "by off from to toward towards around while and as after of for inside outside against "
    "between above below among during past beneath that which who wearing"
)
CUTS = frozenset(CUTTING.split())
FURTHEST_HEAD = 5  # words before the head of the first noun phrase


def nest(caption: str) -> list[str] | None:
    """Four texts from general to special, or None where the rules do not apply."""
    words = caption.strip().rstrip(".").split()
    lower = [word.lower().strip(",") for word in words]
    head = next((i for i, word in enumerate(lower[:FURTHEST_HEAD]) if word in KIND_OF), None)
    # A cut before the head, or a noun after it ("dog toy"), and it is not the head.
    if head is None or head + 1 >= len(lower) or CUTS.intersection(lower[:head]):
        return None
    if lower[head + 1] in KIND_OF:
        return None
    determiner = NUMBERS.get(lower[0]) or (_article(lower[head]) if lower[0] in ARTICLES else None)
    plural = KIND_OF[lower[head]] in ("animals", "people", "vehicles")
    if determiner is None or (plural and lower[0] in ARTICLES):
        return None
    thing = f"{determiner} {lower[head]}"
    cut = _cut(lower, head)
    if cut is None:
        return None
    chain = [KIND_OF[lower[head]], thing, " ".join(lower[:cut]), caption.strip()]
    lengths = [len(text.split()) for text in chain]
    return chain if len(set(chain)) == 4 and lengths[1] < lengths[2] < len(words) else None


def nested_photos(captions: Sequence[Sequence[str]]) -> list[list[str] | None]:
    """The first chain that a caption of each photo gives, if any does."""
    return [next(filter(None, map(nest, some)), None) for some in captions]


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _cut(words: Sequence[str], head: int) -> int | None:
    """Where the first clause ends: before the first cut that does not come right after the head."""
    for i in range(head + 2, len(words)):
        if words[i] in CUTS and words[i - 1] not in CUTS:
            return i
    return None

"""Group ImageNet's classes into the few things that a camera at home, in a shop or in a street often shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from training.errors import RunError

OTHER: Final = "something else"

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "car": (
        "ambulance", "beach wagon", "cab", "car mirror", "car wheel", "convertible", "grille", "jeep", "limousine",
        "minivan", "Model T", "police van", "racer", "sports car",
    ),
    "bus or truck": (
        "fire engine", "garbage truck", "minibus", "moving van", "pickup", "recreational vehicle", "school bus",
        "snowplow", "tow truck", "tractor", "trailer truck", "trolleybus", "forklift", "golfcart",
    ),
    "bicycle or motorcycle": (
        "bicycle-built-for-two", "crash helmet", "moped", "motor scooter", "mountain bike", "tricycle", "unicycle",
    ),
    "train": (
        "bullet train", "electric locomotive", "freight car", "passenger car", "steam locomotive", "streetcar",
    ),
    "boat": (
        "canoe", "catamaran", "container ship", "fireboat", "gondola", "lifeboat", "liner", "schooner", "speedboat",
        "trimaran", "yawl",
    ),
    "aircraft": ("airliner", "airship", "balloon", "parachute", "warplane", "wing"),
    "dog": ("Chihuahua", "Mexican hairless"),
    "cat": ("tabby", "Egyptian cat"),
    "bird": ("cock", "great grey owl", "black grouse", "black swan", "white stork", "albatross"),
    "horse or cattle": ("sorrel", "ox", "water buffalo", "ram", "horse cart", "oxcart"),
    "person or clothing": (
        "abaya", "academic gown", "apron", "ballplayer", "bikini", "bow tie", "brassiere", "bulletproof vest",
        "cardigan", "cloak", "cowboy boot", "cowboy hat", "fur coat", "gown", "groom", "hoopskirt", "jean", "jersey",
        "kimono", "lab coat", "Loafer", "maillot", "maillot, tank suit", "military uniform", "miniskirt", "overskirt",
        "pajama", "poncho", "running shoe", "sandal", "sarong", "scuba diver", "ski mask", "sock", "sombrero", "stole",
        "suit", "sunglass", "sunglasses", "sweatshirt", "swimming trunks", "trench coat", "wig", "Windsor tie",
    ),
    "bag or box": (
        "backpack", "carton", "crate", "envelope", "hamper", "mailbag", "packet", "plastic bag", "purse",
        "shopping basket", "shopping cart", "chest", "ashcan",
    ),
    "bottle or cup": (
        "beer bottle", "beer glass", "coffee mug", "coffeepot", "cocktail shaker", "cup", "espresso", "goblet",
        "milk can", "pill bottle", "pitcher", "pop bottle", "red wine", "teapot", "water bottle", "water jug",
        "whiskey jug", "wine bottle", "lotion", "measuring cup",
    ),
    "food": (
        "acorn squash", "artichoke", "bagel", "banana", "bell pepper", "broccoli", "burrito", "butternut squash",
        "carbonara", "cauliflower", "cheeseburger", "chocolate sauce", "consomme", "cucumber", "custard apple",
        "dough", "fig", "French loaf", "Granny Smith", "guacamole", "head cabbage", "hot pot", "hotdog", "ice cream",
        "ice lolly", "jackfruit", "lemon", "mashed potato", "meat loaf", "mushroom", "orange", "pineapple", "pizza",
        "plate", "pomegranate", "potpie", "pretzel", "spaghetti squash", "strawberry", "trifle", "zucchini",
    ),
    "screen, keyboard or phone": (
        "cellular telephone", "computer keyboard", "desktop computer", "dial telephone", "hand-held computer",
        "home theater", "iPod", "joystick", "laptop", "monitor", "mouse", "notebook", "pay-phone", "printer",
        "projector", "remote control", "screen", "space bar", "television", "entertainment center",
        "typewriter keyboard",
    ),
    "furniture": (
        "barber chair", "bassinet", "bookcase", "chiffonier", "china cabinet", "cradle", "crib", "desk",
        "dining table", "file", "folding chair", "four-poster", "medicine chest", "park bench", "pool table",
        "quilt", "rocking chair", "studio couch", "table lamp", "throne", "wardrobe", "pillow",
    ),
    "door, gate or window": (
        "chainlink fence", "picket fence", "shoji", "sliding door", "turnstile", "window screen", "window shade",
        "worm fence", "prison",
    ),
    "kitchen or bathroom": (
        "bathtub", "dishwasher", "frying pan", "microwave", "refrigerator", "shower curtain", "soap dispenser",
        "stove", "toaster", "toilet seat", "tub", "washbasin", "washer", "wok", "Crock Pot", "espresso maker",
    ),
}  # fmt: skip
"""For each group, the names of its classes."""
RANGES: Final = frozenset({"dog", "cat", "bird"})
"""Groups whose names are pairs: the first and the last class of a run of ImageNet's classes."""


def group_matrix(classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """Return the groups' names, K with `OTHER` last, and the matrix (1001, K) that sums probabilities by group.

    `classes`: ImageNet's 1000 names; the background is before them. Raises `RunError` for a name that is not there.
    """
    labels = [*GROUPS, OTHER]
    place = {name: number for number, name in enumerate(classes, start=1)}
    matrix = torch.zeros(len(classes) + 1, len(labels))
    for column, (group, names) in enumerate(GROUPS.items()):
        if missing := [name for name in names if name not in place]:
            raise RunError(f"labels: no class {missing[0]!r}; give the list that comes with the weights")
        if group in RANGES:
            for first, last in zip(names[::2], names[1::2], strict=True):
                matrix[place[first] : place[last] + 1, column] = 1
        else:
            matrix[[place[name] for name in names], column] = 1
    rest = matrix.sum(dim=1)
    assert rest.max() == 1, "no class is in two groups"
    matrix[:, -1] = 1 - rest
    return labels, matrix

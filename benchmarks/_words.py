"""Class names for tasks of any size: those of the embedded training set, then the same with words in front."""

from itertools import product

from tima.data import find_data

FRONT = (
    *("red", "green", "blue", "yellow", "black", "white", "grey", "pink", "brown", "golden"),
    *("small", "large", "old", "new", "broken", "wooden", "painted", "shiny", "wet", "toy"),
    *("flying", "sleeping", "frozen", "burning", "wild", "sad", "happy", "funny", "round", "square"),
)


def class_names(count: int, image_size: int = 48) -> list[str]:
    """`count` names, all different; the first 300 are those of `pictures`."""
    own = find_data("pictures:train", image_size=image_size).class_names
    fronts = [(), *((a,) for a in FRONT), *product(FRONT, FRONT)]
    names = [" ".join((*front, name)) for front in fronts for name in own if len(set(front)) == len(front)]
    return names[:count]

"""Word lists for the text half of `tima pretrain`, from WordNet's nouns (Debian: wordnet-base and -sense-index).

    apt-get download wordnet-base wordnet-sense-index && for f in wordnet-*.deb; do dpkg -x $f wn; done
    python tools/build_data/words.py --wordnet wn/usr/share/wordnet --out words

Writes `words/nouns.txt` (concrete nouns, most used first) and `words/glosses.txt` (one definition a line).
WordNet is copyright Princeton University and free to use under its own licence.
"""

import argparse
import re
from pathlib import Path

# WordNet's lexicographer files of things a picture can show
CONCRETE = {"05": "animal", "06": "artifact", "08": "body", "13": "food", "17": "object", "18": "person", "20": "plant"}
LATIN_HEAVY = {"20", "18"}  # of these only nouns that the tagged corpora or short definitions make likely


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun and index.sense")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    uses = count_uses(args.wordnet / "index.sense")
    nouns: dict[str, int] = {}
    glosses: list[str] = []
    for line in (args.wordnet / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        if fields[1] not in CONCRETE:
            continue
        words = [fields[4 + 2 * i] for i in range(int(fields[3], 16))]
        plain = [w.replace("_", " ") for w in words if re.fullmatch(r"[a-z][a-z_'-]{1,40}", w)]
        if fields[1] in LATIN_HEAVY:
            plain = [w for w in plain if uses.get((w.replace(" ", "_"), fields[0]), 0) > 0 or (" " not in w and len(w) < 9)]
        for word in plain:
            nouns[word] = nouns.get(word, 0) + uses.get((word.replace(" ", "_"), fields[0]), 0)
        if plain:
            definition = re.split(r'; "|;|\(', gloss)[0].strip()
            glosses.extend([f"{plain[0]}: {definition}"] if definition else [])
    args.out.mkdir(parents=True, exist_ok=True)
    ranked = sorted(nouns, key=lambda w: (-nouns[w], w))
    (args.out / "nouns.txt").write_text("\n".join(ranked) + "\n", encoding="utf-8")
    (args.out / "glosses.txt").write_text("\n".join(dict.fromkeys(glosses)) + "\n", encoding="utf-8")
    print(f"{len(ranked)} nouns ({sum(v > 0 for v in nouns.values())} seen in tagged text), {len(glosses)} glosses")


def count_uses(path: Path) -> dict[tuple[str, str], int]:
    """`(lemma, synset offset) -> times tagged` for nouns."""
    uses = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, offset, _, count = line.split()
        lemma, _, sense = key.partition("%")
        if sense.startswith("1:"):
            uses[lemma, offset] = int(count)
    return uses


if __name__ == "__main__":
    main()

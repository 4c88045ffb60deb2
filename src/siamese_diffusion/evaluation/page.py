"""The page that `evaluate` writes: three questions, each with its figures, its distributions and its pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese_diffusion import pictures
from siamese_diffusion.config import Config
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.evaluation import gallery
from siamese_diffusion.evaluation.compare import Comparison, Sets
from siamese_diffusion.evaluation.gallery import COLUMNS
from siamese_diffusion.evaluation.judge import Judge
from siamese_diffusion.evaluation.metrics.mask_fit import Scores
from siamese_diffusion.evaluation.metrics.panel import meaning
from siamese_diffusion.report import Figure, Section, Table, histogram, labelled_rows, scatter, write_report


def write(
    path: Path,
    metrics: Mapping[str, Any],
    sets: Sets,
    judge: Judge,
    scores: Mapping[str, Scores],
    own: Mapping[str, Scores] | None,
    found: Comparison,
    config: Config,
) -> None:
    """Write the page.

    Args:
        path: of the page.
        metrics: what `evaluate` returns.
        sets: the pairs that were compared.
        judge: to show what it sees.
        scores: `dice`, `iou` and `boundary` of the synthetic pairs, (N,) each.
        own: the same of the real test pairs, or None.
        found: the comparison in features.
        config: its `data.resolution` and `evaluate.seed` count.
    """
    sections = [
        _quality(metrics, sets, found, config),
        _fit(metrics["fit"], sets.synthetic, judge, scores, own),
        _novelty(metrics["novelty"], sets, found, config.data.resolution),
        _appearance(metrics["appearance"]),
        _protocol(metrics),
    ]
    write_report(path, "Synthetic pairs: are they good, do they obey, are they new?", _lead(metrics), sections)


def _lead(metrics: Mapping[str, Any]) -> str:
    fit, novelty, counts = metrics["fit"], metrics["novelty"], metrics["counts"]
    name, distance = next(iter(metrics["quality"].items()))
    scale = f" (real images among themselves: {_number(distance['real'])})" if distance["real"] is not None else ""
    flagged = len(novelty["flagged"])
    return (
        f"{counts['synthetic']} synthetic pairs, compared with {counts['real']} real ones. "
        f"Good: {_title(name)} is {_number(distance['value'])}{scale}. "
        f"Obedient: a network that was trained on real pairs finds the lesion that was asked for with a Dice of "
        f"{_percent(fit['dice']['mean'])} %; in real images its Dice is {_percent(fit['judge']['dice'])} %. "
        f"New: {flagged or 'none'} of {counts['synthetic']} {'is' if flagged == 1 else 'are'} flagged as "
        f"{'a copy' if flagged == 1 else 'copies'} of a training image; of real images that are not copies the flag "
        f"hits {_percent(novelty['false_alarm_rate'])} %."
    )


def _quality(metrics: Mapping[str, Any], sets: Sets, found: Comparison, config: Config) -> Section:
    random = np.random.default_rng(config.evaluate.seed)
    size = config.data.resolution
    rows: dict[str, list[NDArray[np.uint8]]] = {}
    for name, pairs in (("real", sets.real), ("synthetic", sets.synthetic)):
        chosen = random.permutation(len(pairs))[: 2 * COLUMNS].tolist()
        tiles = [pairs[i].image.squared(size) for i in chosen]
        tiles += [np.full((size, size, 3), 255, np.uint8)] * (2 * COLUMNS - len(tiles))
        rows |= {name: tiles[:COLUMNS], f"{name} ": tiles[COLUMNS:]}
    names = ("real, training", "synthetic", "real, held out")
    points = {name: place for name, place in zip(names, found.places, strict=True) if len(place)}
    first = next(iter(metrics["quality"].values()))["extractor"]
    own = (
        ""
        if first != "judge"
        else " The extractor “judge” is the segmentation network that was trained on these real images: it knows what "
        "matters for finding the lesion, and little else. Its figures are no FID or KID, and compare only with figures "
        "that the same network gave."
    )
    return Section(
        "Are the images good?",
        "Each figure compares the synthetic images, as a set, with the real training images. “Real” is the same figure "
        "for real images that are not among them: what to expect when there is nothing to find. Read the kernel "
        "distance first, since it does not depend on how many images there are." + own,
        figures=[
            Figure(labelled_rows(rows), f"Drawn at random, {size} px: real training images, then synthetic ones."),
            Figure(
                scatter(points),
                f"The images in the {first} features, seen along the two directions in which the real "
                "ones differ most. Synthetic points should lie among the real ones, and spread as far.",
            ),
        ],
        tables=[
            Table(
                ["", "value", "95 % interval", "real", "extractor", "what it says"],
                [
                    [
                        _title(name),
                        _number(entry["value"]) + (f" ± {_number(entry['std'])}" if "std" in entry else ""),
                        f"{_number(entry['low'])} to {_number(entry['high'])}",
                        "" if entry["real"] is None else _number(entry["real"]),
                        entry["extractor"],
                        meaning(name),
                    ]
                    for name, entry in metrics["quality"].items()
                ],
                note="± is the standard deviation over random subsets of both sets.",
                words=(4, 5),
            )
        ],
    )


def _fit(
    fit: Mapping[str, Any],
    pairs: Sequence[Pair],
    judge: Judge,
    scores: Mapping[str, Scores],
    own: Mapping[str, Scores] | None,
) -> Section:
    order = np.argsort(scores["dice"], kind="stable").tolist()
    middle = max(0, len(order) // 2 - COLUMNS // 2)
    parts = {"worst": order[:COLUMNS], "median": order[middle : middle + COLUMNS], "best": order[-COLUMNS:]}
    rows = [gallery.outlined(judge, [pairs[i] for i in part]) for part in parts.values()]
    captions = [[f"{name}: Dice {scores['dice'][i]:.2f}" for i in part] for name, part in parts.items()]
    series = {"synthetic": scores["dice"]} | ({"real test images": own["dice"]} if own is not None else {})
    on = {"test": "real test images", "validation": "the real images that chose its training step"}[fit["judge"]["on"]]
    return Section(
        "Do the images obey their masks?",
        "A segmentation network that has seen real pairs only looks at each synthetic image, and what it finds is "
        "compared with the mask that the image was drawn for. A perfect generator would reach what the network "
        "reaches on real images. Above that, the lesions are easier to see than real ones; far below, the images "
        "ignore their masks. Some of the worst pairs are the network's own mistakes: look at them.",
        figures=[
            Figure(
                pictures.png(pictures.grid(rows, captions, font=16)),
                "Green: the mask asked for. Magenta: what the network sees.",
            ),
            Figure(histogram(series, "Dice"), "Dice of every pair."),
        ],
        tables=[_fit_table(fit, on)],
    )


def _fit_table(fit: Mapping[str, Any], on: str) -> Table:
    """The figures beside those that the judge has on real images, which `on` names."""
    own_boundary = fit["judge"].get("boundary")
    return Table(
        ["", "synthetic", "95 % interval", on, "other pairs' masks", "what it says"],
        [
            [
                "Dice, %",
                _percent(fit["dice"]["mean"]),
                f"{_percent(fit['dice']['low'])} to {_percent(fit['dice']['high'])}",
                _percent(fit["judge"]["dice"]),
                _percent(fit["shuffled"]["mean"]),
                "Overlap of the mask with what the network sees; 100 is perfect. With other pairs' masks it "
                "shows what is reached without obeying.",
            ],
            [
                "IoU, %",
                _percent(fit["iou"]["mean"]),
                f"{_percent(fit['iou']['low'])} to {_percent(fit['iou']['high'])}",
                "",
                "",
                "Overlap over union; the same order, a stricter scale.",
            ],
            [
                "boundary, %",
                _percent(fit["boundary"]["mean"]),
                f"{_percent(fit['boundary']['low'])} to {_percent(fit['boundary']['high'])}",
                "" if own_boundary is None else _percent(own_boundary),
                "",
                "Mean distance between the two outlines, of the image's diagonal; 0 is perfect, and 100 is "
                "counted where the network sees nothing.",
            ],
        ],
        words=(5,),
    )


def _novelty(novelty: Mapping[str, Any], sets: Sets, found: Comparison, size: int) -> Section:
    rows = sorted(found.nearest, key=lambda row: float(row["distance"]))
    middle = max(0, len(rows) // 2 - COLUMNS // 2)
    made = {pair.name: pair.image for pair in sets.synthetic}
    real = {pair.name: pair.image for pair in sets.real}
    below = "the nearest training image below each, in brackets what it is nearest by."
    figures = [
        Figure(gallery.side_by_side(part, "name", made, real, size), f"{title}; {below}")
        for title, part in (
            ("The nearest to a training image", rows[:COLUMNS]),
            ("The middle ones", rows[middle : middle + COLUMNS]),
            ("The farthest", rows[-COLUMNS:]),
        )
    ]
    if novelty["alarms"]:
        apart = {pair.name: pair.image for pair in sets.held_out}
        picture = gallery.side_by_side(novelty["alarms"][:COLUMNS], "held_out", apart, real, size)
        title = "The false alarms: real images that are not for training, and were flagged"
        figures.append(
            Figure(picture, f"{title}; {below} Where the two are the same scene, the splits of the data leak.")
        )
    series: dict[str, ArrayLike] = {"synthetic": [row["distance"] for row in rows], "real": found.real_scores}
    return Section(
        "Are the images new?",
        "For every synthetic image the nearest real training image is looked up, flipped or not, in two ways: by the "
        "features of a network, and by a thumbnail without brightness and contrast. The score is the smaller of two "
        "ratios: the distance to that image over the mean distance of that image to its own nearest real neighbours. "
        "A copy scores near 0, a new image about 1. An image below the threshold is flagged. A high score does not "
        "prove that nothing was copied: a copied detail in a new scene is not seen.",
        figures=[
            Figure(histogram(series, "score", (novelty["threshold"], "threshold")), "Scores of every image."),
            *figures,
        ],
        tables=[_novelty_table(novelty)],
    )


def _novelty_table(novelty: Mapping[str, Any]) -> Table:
    measured, score = novelty["measured_on"], novelty["score"]
    return Table(
        ["", "value", "what it says"],
        [
            [
                "flagged",
                f"{_percent(novelty['share_flagged'])} %",
                "Share of the synthetic images flagged as copies.",
            ],
            [
                "false alarms",
                f"{_percent(novelty['false_alarm_rate'])} %",
                f"Share of {measured['count']} real images ({measured['images']}) that the flag hits, though "
                f"they are no copies. Near-duplicates among real images count as alarms. A flagged share of "
                f"this size is no sign of copying.",
            ],
            [
                "threshold",
                _number(novelty["threshold"]),
                f"The score below which {_percent(novelty['target'])} % of the training images lie, each "
                f"compared with all others.",
            ],
            [
                "mean score",
                f"{_number(score['mean'])} ({_number(score['low'])} to {_number(score['high'])})",
                "Of the synthetic images, with its 95 % interval.",
            ],
        ],
        words=(2,),
    )


def _appearance(found: Mapping[str, Any]) -> Section:
    rows = []
    for name, label in (
        ("red", "red"),
        ("green", "green"),
        ("blue", "blue"),
        ("gradient", "gradient"),
        ("sharpness", "sharpness"),
        ("spectrum", "spectrum"),
    ):
        of = [found[key]["colour"][name] if name in found[key]["colour"] else found[key][name] for key in _BOTH]
        rows.append([label, *(_number(value) for value in of), _APPEARANCE.get(name, _APPEARANCE["colour"])])
    return Section(
        "What looks different?",
        "Colour and texture, without any network. “Two halves” is how far two random halves of the real images are "
        "apart.",
        tables=[Table(["", "synthetic to real", "two halves", "what it says"], rows, words=(3,))],
    )


_BOTH = ("difference", "yardstick")
_APPEARANCE = {
    "colour": "Distance of the histograms of that channel, of the full range.",
    "gradient": "Log ratio of the mean edge strength; below 0, synthetic images have weaker edges.",
    "sharpness": "Log ratio of the variance of the Laplacian; below 0, synthetic images are softer.",
    "spectrum": "Mean difference of the log power over all spatial frequencies.",
}


def _protocol(metrics: Mapping[str, Any]) -> Section:
    protocol, counts = metrics["protocol"], metrics["counts"]
    rows = [
        ["real images (reference)", f"{counts['real']} of {protocol['real']}, split {protocol['split'] or 'none'}"],
        ["synthetic images", f"{counts['synthetic']} of {protocol['synthetic']}"],
        ["held-out real images", f"{counts['held_out']} of the other splits"],
        *(
            [
                f"extractor {entry['name']}",
                f"weights {entry['weights']}; images squared to {entry['squared_to']} px, "
                f"then resized to: {entry['then_resized_to']}",
            ]
            for entry in protocol["extractors"]
        ),
        ["judge", f"{protocol['judge']['run']}, at {protocol['judge']['resolution']} px"],
        *(
            [name, str(protocol[name])]
            for name in ("squaring", "intervals", "neighbours", "novelty", "shuffled", "appearance")
        ),
        ["seed", str(protocol["seed"])],
        ["program", f"siamese-diffusion {protocol['version']}"],
    ]
    return Section("How it was measured", "", tables=[Table(["", ""], rows, words=(1,))])


def _title(name: str) -> str:
    known = {"kid": "KID", "fid": "FID", "clip_i": "CLIP-I", "cmmd": "CMMD", "lpips": "LPIPS", "kd": "kernel distance"}
    known |= {"fd": "Fréchet distance", "cosine": "cosine similarity"}
    return known.get(name, name.replace("_", " "))


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"

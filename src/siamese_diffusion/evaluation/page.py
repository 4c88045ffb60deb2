"""The page that `evaluate` writes: three questions, each with its figures, its distributions and its pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese_diffusion import pictures
from siamese_diffusion.config import Config
from siamese_diffusion.data.classes import legend
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.evaluation import gallery
from siamese_diffusion.evaluation.compare import Comparison, Sets
from siamese_diffusion.evaluation.gallery import COLUMNS
from siamese_diffusion.evaluation.judge import Judge
from siamese_diffusion.evaluation.metrics.mask_fit import Scores, of_lesions
from siamese_diffusion.evaluation.metrics.panel import meaning
from siamese_diffusion.evaluation.verdict import promised
from siamese_diffusion.report import (
    Figure,
    Section,
    Table,
    Verdict,
    histogram,
    labelled_rows,
    percent,
    scatter,
    write_report,
)


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
    told = [Verdict(**each) for each in metrics["verdicts"]]
    sections = [
        _quality(metrics, sets, found, config),
        _fit(metrics["fit"], sets.synthetic, judge, scores, own),
        _novelty(metrics["novelty"], sets, found, config.data.resolution),
        _appearance(metrics["appearance"]),
        _protocol(metrics),
    ]
    write_report(path, "Synthetic pairs: are they good, do they obey, are they new?", _lead(metrics), sections, told)


def _lead(metrics: Mapping[str, Any]) -> str:
    counts = metrics["counts"]
    return f"{counts['synthetic']} synthetic pairs, compared with {counts['real']} real ones."


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
    series = {"synthetic": of_lesions(scores)["dice"]}
    series |= {"real test images": of_lesions(own)["dice"]} if own is not None else {}
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
                legend(pairs[0].mask.decoding.class_names, "the mask asked for", "what the network sees"),
            ),
            Figure(histogram(series, "Dice"), "Dice of every pair with a lesion."),
        ],
        tables=[_fit_table(fit, on), *_class_table(fit, on)],
    )


def _class_table(fit: Mapping[str, Any], on: str) -> list[Table]:
    """The classes of a mask, where there are several."""
    if "classes" not in fit:
        return []
    rows = [
        [
            name,
            percent(one["dice"]["mean"]),
            f"{percent(one['dice']['low'])} to {percent(one['dice']['high'])}",
            "" if one["judge"] is None else percent(one["judge"]),
            str(one["count"]),
        ]
        for name, one in fit["classes"].items()
    ]
    swapped = fit["exchanged"]
    note = (
        "Over the pairs in which the class is, or is seen. With the classes exchanged in the masks the mean Dice is "
        f"{percent(swapped['mean'])} % ({percent(swapped['low'])} to {percent(swapped['high'])} %): what is reached by "
        "drawing the right shapes as the wrong class."
    )
    return [Table(["class", "Dice, %", "95 % interval", on, "pairs"], rows, note, title="By class")]


def _fit_table(fit: Mapping[str, Any], on: str) -> Table:
    """The figures beside those that the judge has on real images, which `on` names."""
    healthy, real = fit.get("healthy"), fit["judge"].get("healthy")
    own_boundary = fit["judge"].get("boundary")
    return Table(
        ["", "synthetic", "95 % interval", on, "other pairs' masks", "what it says"],
        [
            [
                "Dice, %",
                percent(fit["dice"]["mean"]),
                f"{percent(fit['dice']['low'])} to {percent(fit['dice']['high'])}",
                percent(fit["judge"]["dice"]),
                percent(fit["shuffled"]["mean"]),
                "Overlap of the mask with what the network sees; 100 is perfect. With other pairs' masks it "
                "shows what is reached without obeying.",
            ],
            [
                "IoU, %",
                percent(fit["iou"]["mean"]),
                f"{percent(fit['iou']['low'])} to {percent(fit['iou']['high'])}",
                "",
                "",
                "Overlap over union; the same order, a stricter scale.",
            ],
            [
                "boundary, %",
                percent(fit["boundary"]["mean"]),
                f"{percent(fit['boundary']['low'])} to {percent(fit['boundary']['high'])}",
                "" if own_boundary is None else percent(own_boundary),
                "",
                "Mean distance between the two outlines, of the image's diagonal; 0 is perfect, and 100 is "
                "counted where the network sees nothing.",
            ],
            *(
                [
                    [
                        "healthy left unmarked, %",
                        "" if healthy is None else percent(healthy["specificity"]),
                        "",
                        "" if real is None else percent(real["specificity"]),
                        "",
                        f"Of the pairs without a lesion ({0 if healthy is None else healthy['count']} synthetic, "
                        f"{0 if real is None else real['count']} real), which count in no other line.",
                    ]
                ]
                if healthy is not None or real is not None
                else []
            ),
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
    apart = {pair.name: pair.image for pair in sets.held_out}
    if novelty["alarms"]:
        picture = gallery.side_by_side(novelty["alarms"][:COLUMNS], "held_out", apart, real, size)
        title = "The false alarms: real images that are not for training, and were flagged"
        figures.append(Figure(picture, f"{title}; {below}"))
    if scenes := novelty["same_scene"]:
        shown = [
            {"name": row["first"], "real": row["second"], "distance": 0, "flip": "none", "by": row["by"]}
            for row in scenes[:COLUMNS]
        ]
        picture = gallery.side_by_side(shown, "name", real | apart, real, size)
        text = (
            f"The same scene twice among the real images: {len(scenes)} in all. Keep such images in one split; they "
            "count neither for the thresholds nor as false alarms."
        )
        figures.append(Figure(picture, text))
    series: dict[str, ArrayLike] = {"synthetic": [row["distance"] for row in rows], "real": found.real_scores}
    return Section(
        "Are the images new?",
        "Every synthetic image is looked for among the training images, as a whole (through brightness, blur, noise, "
        "flips and blends) and by its details (through crops, turns, shifts, and where only a part was copied). A "
        "score near 0 is a copy; below 1 an image is nearer to a training image than real images are to each other, "
        "and is flagged. What is not found: a copy that was bent out of shape, or of less than about a third of the "
        "image.",
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
                f"{percent(novelty['share_flagged'])} %",
                "Share of the synthetic images flagged as copies.",
            ],
            [
                "false alarms",
                f"{percent(novelty['false_alarm_rate'])} %",
                f"Share of {measured['count']} real images ({measured['images']}) that the flag hits, though "
                f"they are no copies. A flagged share of this size is no sign of copying.",
            ],
            [
                "thresholds",
                ", ".join(f"{name} {_number(value)}" for name, value in novelty["thresholds"].items()),
                f"Set so that the flag hits about {percent(novelty['target'])} % of the training images, each "
                f"compared with all others. {promised(novelty) or ''}".strip(),
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
        ["held-out real images", _held_out(counts["held_out"], protocol["set_aside"])],
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


def _held_out(count: int, aside: Sequence[str]) -> str:
    if count:
        return f"{count} of the other splits"
    shown = ", ".join(aside[:20]) + (f" and {len(aside) - 20} more" if len(aside) > 20 else "")
    return f"none; {len(aside)} of the real images stand in for them as a yardstick: {shown}" if aside else "none"


def _title(name: str) -> str:
    known = {"kid": "KID", "fid": "FID", "clip_i": "CLIP-I", "cmmd": "CMMD", "lpips": "LPIPS", "kd": "kernel distance"}
    known |= {"fd": "Fréchet distance", "cosine": "cosine similarity"}
    return known.get(name, name.replace("_", " "))


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"

"""The command line: parse, call the function of the same name, print. Nothing heavy is imported before it is needed."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from siamese_diffusion.console import ConfigFile, Data, Device, Json, Out, Resume, Setting, load_settings, quiet, run
from siamese_diffusion.errors import InputError

app = typer.Typer(
    help="New image-mask pairs from a few annotated medical images, and proof of whether they help segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    out: Out = Path("demo"),
    size: Annotated[str, typer.Option(help="smallest (a minute or two) or default (up to six minutes).")] = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The main job end to end on made-up endoscopy: train, sample, score, segment, report."""

    def call() -> Any:
        quiet()
        from siamese_diffusion.demonstration import demo

        return demo(out, size, device)

    run(call, as_json)


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Folder of image-mask pairs.")],
    config: ConfigFile = None,
    settings: Setting = None,
    as_json: Json = False,
) -> None:
    """What is in a data folder, how it is read, and what is wrong with it; exit status 2 where training would be refused."""
    usable = []

    def call() -> Any:
        from siamese_diffusion.data.check import check, render

        report = check(data, load_settings(config, settings).data)
        usable.append(report.usable)
        if not as_json:
            print(render(report))
        return report.as_dict()

    run(call, as_json, show=False)
    if not all(usable):
        raise SystemExit(2)


@app.command()
def phantoms(
    out: Out,
    count: Annotated[int, typer.Option(help="Pairs to make.")] = 200,
    resolution: Annotated[int, typer.Option(help="Side in pixels.")] = 128,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Json = False,
) -> None:
    """Make a folder of made-up endoscopy pairs."""

    def call() -> Any:
        from siamese_diffusion.data.phantom import make_phantoms

        make_phantoms(out, count, resolution, seed)
        return {"out": str(out), "pairs": count}

    run(call, as_json)


@app.command()
def pretrain(
    images: Annotated[Path, typer.Option(help="Folder of images; masks are not needed.")],
    out: Out,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a small backbone from unlabelled images."""

    def call() -> Any:
        quiet()
        from siamese_diffusion.diffusion.pretrain import pretrain

        return pretrain(images, out, load_settings(config, settings), resume, device)

    run(call, as_json)


@app.command()
def train(
    data: Data,
    out: Out,
    backbone: Annotated[str, typer.Option(help="small, sd15, a folder, a .ckpt file, or a hub id.")] = "small",
    method: Annotated[str | None, typer.Option(help="siamese, mask-only or adc.")] = None,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train Siamese-Diffusion on image-mask pairs."""

    def call() -> Any:
        quiet()
        from siamese_diffusion.diffusion.train import train

        default = "sd15-paper" if backbone == "sd15" else None
        return train(data, out, backbone, method, load_settings(config or default, settings), resume, device)

    run(call, as_json)


@app.command()
def sample(
    checkpoint: Annotated[Path, typer.Option(help="A finished run of `train`.")],
    masks: Annotated[Path, typer.Option(help="Folder of masks, or of pairs.")],
    out: Out,
    per_mask: Annotated[int, typer.Option(help="Images for each mask.")] = 1,
    random_masks: Annotated[str | None, typer.Option(help="Vary each mask by this recipe first.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="ddim, dpm or unipc.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance on the prompt.")] = None,
    mask_guidance: Annotated[float | None, typer.Option(help="Above 1, lesions keep closer to their masks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise and the random masks.")] = None,
    format_: Annotated[str, typer.Option("--format", help="folder, or webdataset: tar files of many pairs.")] = "folder",
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Draw images for masks: a folder of new pairs."""

    def call() -> Any:
        quiet()
        from siamese_diffusion.diffusion.sample import sample

        chosen = load_settings(config or str(checkpoint / "config.yaml"), settings) if config or settings else None
        return sample(
            checkpoint,
            masks,
            out,
            per_mask,
            random_masks,
            scheduler,
            steps,
            guidance,
            mask_guidance,
            seed,
            chosen,
            resume,
            device,
            format_,
        )

    run(call, as_json)


@app.command()
def evaluate(
    real: Annotated[Path, typer.Option(help="Folder of real pairs.")],
    synthetic: Annotated[Path, typer.Option(help="Folder of synthetic pairs.")],
    out: Out,
    judge: Annotated[Path | None, typer.Option(help="A run of `segment` on real pairs; default: trained here.")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="judge, inception, clip, dinov2, timm:NAME, timm:NAME@FILE, lpips; several with commas."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of features to share between evaluations.")] = None,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Are the images good, do they obey their masks, and are they new?"""

    def call() -> Any:
        quiet()
        from siamese_diffusion.evaluation.evaluate import evaluate

        return evaluate(real, synthetic, out, load_settings(config, settings), judge, resume, device, features, cache)

    run(call, as_json)


@app.command("filter")
def filter_(
    scores: Annotated[Path, typer.Option(help="Folder that `evaluate` wrote.")],
    out: Out,
    min_dice: Annotated[float | None, typer.Option(help="Smallest mask fit (Dice) of a pair, 0 to 1.")] = None,
    max_boundary: Annotated[
        float | None, typer.Option(help="Largest distance of the outlines, as a share of the diagonal.")
    ] = None,
    drop_flagged: Annotated[bool, typer.Option("--drop-flagged", help="Leave out copies of training images.")] = False,
    synthetic: Annotated[Path | None, typer.Option(help="The pairs that were scored, if they have moved.")] = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Keep the synthetic pairs that `evaluate` found good enough."""

    def call() -> Any:
        from siamese_diffusion.evaluation.filter import filter_

        return filter_(scores, out, min_dice, max_boundary, drop_flagged, synthetic, resume)

    run(call, as_json)


@app.command()
def segment(
    train: Annotated[Path, typer.Option(help="Folder of real pairs.")],
    out: Out,
    test: Annotated[list[Path] | None, typer.Option(help="Folder of test pairs; may be repeated.")] = None,
    synthetic: Annotated[list[Path] | None, typer.Option(help="Folder of synthetic pairs; may be repeated.")] = None,
    network: Annotated[str | None, typer.Option(help="unet, segformer, unet_plain, sanet, polyp_pvt or ctnet.")] = None,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a segmentation network on real, or real and synthetic pairs, and test it."""

    def call() -> Any:
        from siamese_diffusion.segmentation.segment import segment

        return segment(train, out, test or [], synthetic, load_settings(config, settings), network, resume, device)

    run(call, as_json)


@app.command()
def study(
    config: Annotated[Path, typer.Option(help="YAML file: data, arms, networks, seeds. See docs/study.md.")],
    out: Out,
    data: Annotated[list[str] | None, typer.Option(metavar="NAME=DIR", help="Folder of a data set of the file.")] = None,
    workers: Annotated[int | None, typer.Option(help="Stages run side by side.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is done and what would be run.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The paper's table on your own data; the same command goes on where an earlier one stopped."""

    def call() -> Any:
        from siamese_diffusion.studies.spec import load_study

        folders = {}
        for entry in data or []:
            name, equals, folder = entry.partition("=")
            if not (name and equals and folder):
                raise InputError(f"--data {entry}: expected NAME=DIR, with a data set of {config}")
            folders[name] = Path(folder)
        load_study(config, folders, workers)  # a mistake in the file is told before the libraries are loaded
        quiet()
        from siamese_diffusion.studies.study import study

        return study(config, out, folders, workers, dry_run, device)

    run(call, as_json, show=not dry_run, again="the same command goes on")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A checkpoint of the authors' code: .ckpt, .pth or .safetensors.")],
    out: Out,
    backbone: Annotated[str | None, typer.Option(help="Folder or hub id for the parts that the file lacks.")] = None,
    config: ConfigFile = None,
    settings: Setting = None,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint of the authors' code into a run that `sample` takes."""

    def call() -> Any:
        quiet()
        from siamese_diffusion.diffusion.original import import_

        return import_(source, out, backbone, load_settings(config or "sd15-paper", settings))

    run(call, as_json)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option(help="A finished run of `train` or `import`.")],
    out: Annotated[Path, typer.Option(help="Folder (diffusers) or file (original) to write.")],
    to: Annotated[str, typer.Option(help="diffusers: a pipeline folder; original: the authors' key names.")] = "diffusers",
    as_json: Json = False,
) -> None:
    """Write a run as a diffusers pipeline, or as a checkpoint of the authors' code."""

    def call() -> Any:
        quiet()
        from siamese_diffusion.diffusion.original import export

        return export(checkpoint, out, to)

    run(call, as_json)


data_app = typer.Typer(help="Fetch published data sets as folders of pairs.", no_args_is_help=True)
rate_app = typer.Typer(help="A blinded reader study: clinicians rate real and synthetic images.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(rate_app, name="rate")


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """The data sets that can be fetched, their size and their licence."""

    def call() -> Any:
        from siamese_diffusion.data.fetch.get import list_data, render_list

        if not as_json:
            print(render_list())
        return list_data()

    run(call, as_json, show=False)


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="One of `data list`.")],
    out: Out,
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="Accept the terms without a question.")] = False,
    archive: Annotated[
        list[Path] | None, typer.Option(help="A file or unpacked folder to take instead; may be repeated.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives in OUT.downloads.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a data set and unpack it into a folder of pairs."""

    def call() -> Any:
        from siamese_diffusion.data.fetch.get import get_data

        result = get_data(name, out, accept_licence, archive or [], keep)
        if not as_json:
            print(f"{result['pairs']} pairs in {out}; `siamese-diffusion check {out}` reads every file")
        return result

    run(call, as_json, show=False, again="the same command goes on")


@rate_app.command("export")
def rate_export(
    real: Annotated[Path, typer.Option(help="Folder of real pairs or images.")],
    synthetic: Annotated[list[Path], typer.Option(help="Folder of synthetic pairs or images; may be repeated.")],
    out: Out,
    count: Annotated[int, typer.Option(help="Images drawn from each folder.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the draw; the order and the names are never derived from it.")] = 0,
    resolution: Annotated[int | None, typer.Option(help="Side of every image; default: the smallest among them.")] = None,
    split: Annotated[str | None, typer.Option(help="List of the real folder's splits.json; default: all images.")] = None,
    as_json: Json = False,
) -> None:
    """Make the page that readers open and the key that stays with you."""

    def call() -> Any:
        from siamese_diffusion.reader_study.rating import export_ratings

        return export_ratings(real, synthetic, out, count, seed, resolution, split)

    run(call, as_json)


@rate_app.command("score")
def rate_score(
    files: Annotated[list[Path], typer.Argument(help="Files that the readers saved.")],
    key: Annotated[Path, typer.Option(help="key.json of `rate export`.")],
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json and ratings.csv.")] = None,
    as_json: Json = False,
) -> None:
    """Mean opinion scores, real-or-synthetic accuracy and agreement of the readers."""

    def call() -> Any:
        from siamese_diffusion.reader_study.rating import render_scores, score_ratings

        scores = score_ratings(files, key, out)
        if not as_json:
            print(render_scores(scores))
        return scores

    run(call, as_json, show=False)


def main() -> None:
    """Run the command line."""
    try:
        app()
    finally:
        distributed = sys.modules.get("torch.distributed")  # not imported for commands that do without torch
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # joins its threads, which else may abort the process as it ends

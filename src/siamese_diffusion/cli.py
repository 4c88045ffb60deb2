"""The command line: one function a command, whose signature says its options and whose body calls the package.

Nothing heavy is imported before a command runs: `api.train` and the others are imported on first use.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option, Typer

import siamese_diffusion as api
from siamese_diffusion.console import (
    ConfigFile,
    Data,
    Device,
    Out,
    OutOrNone,
    Resume,
    Setting,
    Shown,
    ask_password,
    command,
    load_settings,
    quiet,
    require_there,
    to_write,
)
from siamese_diffusion.errors import InputError
from siamese_diffusion.hub import require_source
from siamese_diffusion.interrupt import undisguised

Result = dict[str, Any]

BACKBONES = ("small", "sd15")
"""What `--backbone` may be besides a folder, a file and a hub id."""

app = Typer(
    help="New image-mask pairs from a few annotated medical images, and proof of whether they help segmentation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # commands inherit it
)
data_app = Typer(help="Fetch published data sets as folders of pairs.", no_args_is_help=True)
rate_app = Typer(help="A blinded reader study: clinicians rate real and synthetic images.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(rate_app, name="rate")


def _version(asked: bool) -> None:
    if asked:
        print(f"siamese-diffusion {api.__version__}")
        raise Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the program itself."""


@command(app, goes_on="siamese-diffusion study --config {out}/study.yaml --out {out} goes on")
def demo(
    out: Out = Path("demo"),
    size: Annotated[str, Option(help="smallest (a minute or two) or default (up to six minutes).")] = "default",
    kinds: Annotated[int, Option(help="2: polyps of two classes in one mask.")] = 1,
    device: Device = "auto",
) -> Result:
    """The main job end to end on made-up endoscopy: train, sample, score, segment, report."""
    quiet()
    return api.demo(out=out, size=size, device=device, kinds=kinds)


@command(app)
def run(
    data: Data,
    out: Out,
    backbone: Annotated[str, Option(help="small, sd15, a folder, a .ckpt file, or a hub id.")] = "small",
    per_mask: Annotated[int, Option(help="Images drawn for each training mask.")] = 1,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Only say what would be done, and how long it takes here.")
    ] = False,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
) -> Shown:
    """Everything: check, train, sample, evaluate, filter, and segment with and without the new pairs; one page."""
    require_source(backbone, "--backbone", BACKBONES)
    default = "sd15-paper" if backbone == "sd15" else None
    chosen = load_settings(config or default, settings)
    require_there(data=data)
    quiet()
    result = api.run(
        data=data,
        out=out,
        backbone=backbone,
        per_mask=per_mask,
        config=chosen,
        dry_run=dry_run,
        resume=resume,
        device=device,
    )
    from siamese_diffusion.job import render

    return Shown(result, render(result))


@command(app)
def check(
    data: Annotated[Path, Argument(help="Folder of image-mask pairs.")],
    report: Annotated[
        Path | None, Option(help="An HTML page with pictures to write besides.", parser=to_write, metavar="FILE")
    ] = None,
    config: ConfigFile = None,
    settings: Setting = None,
) -> Shown:
    """What is in a data folder, how it is read, and what is wrong with it; exit status 2 where training would be
    refused."""
    from siamese_diffusion.data.check_text import render

    found = api.check(data, load_settings(config, settings).data, report)
    return Shown(found.as_dict(), render(found), status=0 if found.usable else 2)


@command(app)
def prepare(
    data: Annotated[Path, Argument(help="Folder or archive: any layout, DICOM or NIfTI.")],
    out: Out,
    group_by: Annotated[str | None, Option(help="Regular expression; its first (...) in a name is the group.")] = None,
    split: Annotated[str | None, Option(help="Shares of train, val and test, by whole groups: 0.8,0.1,0.1.")] = None,
    labels: Annotated[str | None, Option(help="Names of the labels: 1=adenoma,2=hyperplastic.")] = None,
    class_files: Annotated[
        str | None, Option(help="What mask files of a class each are called: polyp,instrument.")
    ] = None,
    foreground: Annotated[str | None, Option(help="any, or labels that are lesion; the others are background.")] = None,
    window: Annotated[str | None, Option(help="LEVEL,WIDTH of the grey shown, 40,400 for CT.")] = None,
    seed: Annotated[int, Option(help="Of the draw for --split.")] = 0,
    licence: Annotated[str | None, Option(help="Terms of use, for dataset.json.")] = None,
    source: Annotated[str | None, Option(help="Where the data come from, for dataset.json.")] = None,
    axis: Annotated[str, Option(help="NIfTI: axial, coronal, sagittal; auto: along the coarsest.")] = "auto",
    every: Annotated[int, Option(help="Of slices without lesion keep one in so many.")] = 10,
    lesion_only: Annotated[bool, Option("--lesion-only", help="Keep no slice without lesion.")] = False,
    channel: Annotated[int | None, Option(help="Of nnU-Net's channels.")] = None,
    keep_names: Annotated[bool, Option("--keep-names", help="Name pairs like clinical files, not p001-s0001.")] = False,
    skip_damaged: Annotated[bool, Option("--skip-damaged", help="Leave damaged clinical files out.")] = False,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
) -> Result:
    """Write any folder once as a plain folder of pairs, with groups and splits: what to do first."""
    return api.prepare(
        data=data,
        out=out,
        config=load_settings(config, settings),
        group_by=group_by,
        split=split,
        labels=labels,
        class_files=class_files,
        foreground=foreground,
        window=window,
        seed=seed,
        licence=licence,
        source=source,
        axis=axis,
        every=every,
        lesion_only=lesion_only,
        channel=channel,
        keep_names=keep_names,
        skip_damaged=skip_damaged,
        resume=resume,
    )


@command(app, goes_on=True)
def phantoms(
    out: Out,
    count: Annotated[int, Option(help="Pairs to make.")] = 200,
    resolution: Annotated[int, Option(help="Side in pixels.")] = 128,
    seed: Annotated[int, Option()] = 0,
    kinds: Annotated[int, Option(help="2: polyps of two classes in one mask, smooth and lobed.")] = 1,
) -> Result:
    """Make a folder of made-up endoscopy pairs."""
    api.phantoms(out=out, count=count, resolution=resolution, seed=seed, kinds=kinds)
    return {"out": str(out), "pairs": count}


@command(app)
def pretrain(
    images: Annotated[Path, Option(help="Folder of images; masks are not needed.")],
    out: Out,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
) -> Result:
    """Train a small backbone from unlabelled images."""
    chosen = load_settings(config, settings)
    require_there(images=images)
    quiet()
    return api.pretrain(images=images, out=out, config=chosen, resume=resume, device=device)


@command(app)
def train(
    data: Data,
    out: Out,
    backbone: Annotated[str, Option(help="small, sd15, a folder, a .ckpt file, or a hub id.")] = "small",
    method: Annotated[str | None, Option(help="siamese, mask-only or adc.")] = None,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
) -> Shown:
    """Train Siamese-Diffusion on image-mask pairs."""
    require_source(backbone, "--backbone", BACKBONES)
    default = "sd15-paper" if backbone == "sd15" else None
    chosen = load_settings(config or default, settings, method={"name": method})
    require_there(data=data)
    quiet()
    result = api.train(
        data=data, out=out, backbone=backbone, method=method, config=chosen, resume=resume, device=device
    )
    from siamese_diffusion.diffusion.judging import render

    return Shown(result, render(result))


@command(app, "train-masks")
def train_masks(
    data: Annotated[Path, Option(help="Folder of image-mask pairs, or of masks.")],
    out: Out,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
) -> Shown:
    """Learn to draw new masks from masks alone, and say whether they are like real ones."""
    chosen = load_settings(config, settings)
    quiet()
    result = api.train_masks(data=data, out=out, config=chosen, resume=resume, device=device)
    from siamese_diffusion.mask_training import render

    return Shown(result, render(result))


@command(app)
def sample(
    checkpoint: Annotated[str, Option(help="A finished run of `train` or `run`, or a hub id.", metavar="RUN")],
    masks: Annotated[
        str,
        Option(help="Folder of masks, or of pairs; a hub id; or a run of `train-masks`, a prior.", metavar="FOLDER"),
    ],
    out: Out,
    count: Annotated[
        int | None, Option(help="Masks to draw from a prior; default: as many as it learned from.")
    ] = None,
    condition: Annotated[
        str | None, Option(metavar="area=LOW..HIGH", help="Ask a prior for lesions that cover such a share.")
    ] = None,
    per_mask: Annotated[int, Option(help="Images for each mask.")] = 1,
    random_masks: Annotated[str | None, Option(help="Vary each mask by this recipe first.")] = None,
    scheduler: Annotated[str | None, Option(help="ddim, dpm or unipc.")] = None,
    steps: Annotated[int | None, Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, Option(help="Classifier-free guidance on the prompt.")] = None,
    mask_guidance: Annotated[float | None, Option(help="Above 1, lesions keep closer to their masks.")] = None,
    seed: Annotated[int | None, Option(help="Seed of the noise and the random masks.")] = None,
    format: Annotated[str, Option(help="folder, or webdataset: tar files of many pairs.")] = "folder",
    into: Annotated[
        Path | None, Option(help="Folder of real images or pairs: draw each lesion into one of them, at a free place.")
    ] = None,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
) -> Result:
    """Draw images for masks, or lesions into existing images: a folder of new pairs."""
    from siamese_diffusion.config import read_overrides

    solver = {"scheduler": scheduler, "steps": steps, "guidance": guidance, "mask_guidance": mask_guidance}
    base = load_settings(config, settings, sample={**solver, "seed": seed})
    for option, source in (("--checkpoint", checkpoint), ("--masks", masks)):
        require_source(source, option)
    require_there(into=into)
    quiet()
    chosen = base if config else read_overrides(settings or []) or None  # over the settings of the run
    return api.sample(
        checkpoint=checkpoint,
        masks=masks,
        out=out,
        per_mask=per_mask,
        random_masks=random_masks,
        scheduler=scheduler,
        steps=steps,
        guidance=guidance,
        mask_guidance=mask_guidance,
        seed=seed,
        format=format,
        into=into,
        count=count,
        condition=condition,
        config=chosen,
        resume=resume,
        device=device,
    )


@command(app)
def evaluate(
    real: Annotated[Path, Option("--real", "--data", help="Folder of real pairs.")],
    out: Out,
    synthetic: Annotated[Path | None, Option(help="Folder of synthetic pairs.")] = None,
    masks: Annotated[
        Path | None, Option(help="Instead: folder of drawn masks, to compare with those of the real pairs.")
    ] = None,
    held_out: Annotated[
        Path | None, Option(help="With --masks: folder of other real masks; default: all others of --real.")
    ] = None,
    judge: Annotated[Path | None, Option(help="A run of `segment` on real pairs; default: trained here.")] = None,
    features: Annotated[
        str | None,
        Option(help="judge, inception, clip, dinov2, timm:NAME, timm:NAME@FILE, lpips; several with commas."),
    ] = None,
    cache: Annotated[Path | None, Option(help="Folder of features to share between evaluations.")] = None,
    run: Annotated[Path | None, Option(help="Run that drew the pairs: what is found goes into its card.")] = None,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
) -> Shown:
    """Are the images good, do they obey their masks, and are they new? Or: are drawn masks like real ones?"""
    chosen = load_settings(config, settings, evaluate={"features": features})
    require_there(real=real, synthetic=synthetic, judge=judge, run=run, masks=masks, held_out=held_out)
    quiet()
    if masks is not None:
        from siamese_diffusion.evaluation.masks_page import render
    else:
        from siamese_diffusion.evaluation.verdict import render

    metrics = api.evaluate(
        real=real,
        synthetic=synthetic,
        out=out,
        judge=judge,
        features=features,
        cache=cache,
        run=run,
        config=chosen,
        resume=resume,
        device=device,
        masks=masks,
        held_out=held_out,
    )
    return Shown(metrics, render(metrics))


@command(app, "filter")
def filter_(
    out: Out,
    scores: Annotated[Path | None, Option(help="Folder that `evaluate` wrote.")] = None,
    min_dice: Annotated[float | None, Option(help="Smallest mask fit (Dice) of a pair, 0 to 1.")] = None,
    max_boundary: Annotated[
        float | None, Option(help="Largest distance of the outlines, as a share of the diagonal.")
    ] = None,
    drop_flagged: Annotated[bool, Option("--drop-flagged", help="Leave out copies of training images.")] = False,
    drop: Annotated[list[str] | None, Option(help="Name of a pair to leave out; may be repeated.")] = None,
    synthetic: Annotated[
        Path | None, Option(help="The pairs: where they were scored and have moved, or without scores.")
    ] = None,
    anyway: Annotated[bool, Option("--anyway", help="Even where mask fit is no better than chance.")] = False,
    worst_class: Annotated[
        bool, Option("--worst-class", help="Of several classes --min-dice is for the worst of a pair, not their mean.")
    ] = False,
    resume: Resume = False,
) -> Result:
    """Keep the synthetic pairs that `evaluate` found good enough."""
    return api.filter(
        scores=scores,
        out=out,
        min_dice=min_dice,
        max_boundary=max_boundary,
        drop_flagged=drop_flagged,
        synthetic=synthetic,
        resume=resume,
        anyway=anyway,
        worst_class=worst_class,
        drop=drop or [],
    )


@command(app)
def segment(
    train: Annotated[Path, Option("--train", "--data", help="Folder of real pairs.")],
    out: Out,
    test: Annotated[list[Path] | None, Option(help="Folder of test pairs; may be repeated.")] = None,
    synthetic: Annotated[list[Path] | None, Option(help="Folder of synthetic pairs; may be repeated.")] = None,
    network: Annotated[
        str | None,
        Option(help="unet, segformer, unet_plain, sanet, polyp_pvt, ctnet; smp with --set segment.encoder=NAME."),
    ] = None,
    folds: Annotated[int | None, Option(help="Cross-validation: hold out each of so many folds in turn.")] = None,
    arms: Annotated[
        str | None, Option(help="With --synthetic: both (default: with and without them, compared), or mixed.")
    ] = None,
    seeds: Annotated[int | None, Option(help="Trainings of each arm; default: 3 of both arms, else 1.")] = None,
    all_metrics: Annotated[bool, Option("--all-metrics", help="Print the polyp papers' figures too.")] = False,
    config: ConfigFile = None,
    settings: Setting = None,
    resume: Resume = False,
    device: Device = "auto",
) -> Shown:
    """Train a segmentation network and test it; with synthetic pairs, say whether they help."""
    chosen = load_settings(config, settings, segment={"network": network})
    require_there(train=train, test=test, synthetic=synthetic)
    result = api.segment(
        train=train,
        out=out,
        test=test or [],
        synthetic=synthetic,
        network=network,
        config=chosen,
        resume=resume,
        device=device,
        folds=folds,
        arms=arms,
        seeds=seeds,
    )
    from siamese_diffusion.segmentation.printed import render

    return Shown(result, render(result, out, all_metrics))


@command(app)
def predict(
    out: Out,
    network: Annotated[Path | None, Option(help="A finished run of `segment`.")] = None,
    images: Annotated[Path | None, Option(help="An image, a video, or a folder of images.")] = None,
    masks: Annotated[Path | None, Option(help="Folder of masks with the images' names, to score against.")] = None,
    tta: Annotated[bool, Option("--tta", help="Average over four flips; takes four times as long.")] = False,
    probability_maps: Annotated[bool, Option("--probability-maps", help="Write them too.")] = False,
    overlays: Annotated[bool, Option(help="Write pictures with the outlines.")] = True,
    threshold: Annotated[float, Option(help="Probability above which a pixel is lesion.")] = 0.5,
    batch_size: Annotated[int, Option(help="Images in one pass.")] = 16,
    from_nnunet: Annotated[
        Path | None, Option(help="Instead of a network and images: nnU-Net's predictions, to score against --masks.")
    ] = None,
    pairs: Annotated[Path | None, Option(help="With --from-nnunet: pairs.csv of `export-nnunet`.")] = None,
    resume: Resume = False,
    device: Device = "auto",
) -> Result:
    """Draw the masks that a trained network sees in new images."""
    return api.predict(
        network=network,
        images=images,
        out=out,
        masks=masks,
        tta=tta,
        probability_maps=probability_maps,
        overlays=overlays,
        threshold=threshold,
        batch_size=batch_size,
        resume=resume,
        device=device,
        from_nnunet=from_nnunet,
        pairs=pairs,
    )


@command(app, "app")
def app_(
    run: Annotated[Path | None, Option(help="A run of `train`, or a folder of runs; default: phantoms.")] = None,
    data: Annotated[Path | None, Option(help="Folder of real pairs; default: phantoms.")] = None,
    pairs: Annotated[list[Path] | None, Option(help="Folder of synthetic pairs; may be repeated.")] = None,
    network: Annotated[Path | None, Option(help="A finished run of `segment`, which looks at every image.")] = None,
    scores: Annotated[Path | None, Option(help="Folder that `evaluate` wrote of the pairs.")] = None,
    out: Out = Path("siamese-diffusion-app"),
    listen: Annotated[bool, Option("--listen", help="Serve other computers too; asks for a password to set.")] = False,
    port: Annotated[int | None, Option(help="Of the page; default: a free one.", min=1, max=65535)] = None,
    device: Device = "auto",
) -> Result:
    """A page to draw on: paint a lesion, see images of it, look through pairs, data and runs, and rate them."""
    password = ask_password("SIAMESE_DIFFUSION_PASSWORD") if listen else None
    return api.app(
        run=run,
        data=data,
        pairs=pairs or [],
        network=network,
        scores=scores,
        out=out,
        listen=listen,
        password=password,
        port=port,
        device=device,
    )


@command(app)
def status(
    run: Annotated[Path, Argument(help="Folder that a command writes, or wrote.")],
    picture: Annotated[
        Path | None, Option(help="A PNG of the curves to write.", parser=to_write, metavar="FILE")
    ] = None,
) -> Shown:
    """What a run is doing or where it stopped, how far it is, and its last figures; nothing in it changes."""
    from siamese_diffusion.run_status import render

    found = api.status(run, picture)
    return Shown(found, render(found))


@command(app, goes_on=True)
def study(
    config: Annotated[
        Path | None, Option(help="YAML file: data, arms, networks, seeds. See docs/study.md, or --example.")
    ] = None,
    out: OutOrNone = None,
    data: Annotated[list[str] | None, Option(metavar="NAME=DIR", help="Folder of a data set of the file.")] = None,
    workers: Annotated[int | None, Option(help="Stages run side by side.")] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Only say what is left, and how many hours it takes here.")
    ] = False,
    example: Annotated[
        bool, Option("--example", help="Print a study file with comments, of --data where they are given.")
    ] = False,
    device: Device = "auto",
) -> Result | Shown:
    """The paper's table on your own data; the same command goes on where an earlier one stopped."""
    folders = {}
    for entry in data or []:
        name, equals, folder = entry.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--data {entry}: expected NAME=DIR, with a data set of {config or 'the study'}")
        folders[name] = Path(folder)
    require_there(data=list(folders.values()))
    if example:
        if config is not None or out is not None:
            raise InputError("study --example: prints a file; take --config and --out away")
        from siamese_diffusion.studies.example import example as example_of

        text = example_of(folders)
        return Shown({"study": text}, text.rstrip("\n"))
    if config is None or out is None:
        raise InputError(
            "study: give --config STUDY.yaml and --out FOLDER; `siamese-diffusion study --example` prints such a file"
        )
    from siamese_diffusion.studies.spec import load_study

    load_study(config, folders, workers)  # a mistake in the file is told before the libraries are loaded
    quiet()
    result = api.study(config=config, out=out, data=folders, workers=workers, dry_run=dry_run, device=device)
    if not dry_run:
        return result
    from siamese_diffusion.studies.estimate import render

    return Shown(result, render(result))


@command(app, "import", goes_on=True)
def import_(
    source: Annotated[
        str,
        Argument(help="A checkpoint of the authors' code: a .ckpt, .pth or .safetensors file, or a hub id."),
    ],
    out: Out,
    backbone: Annotated[str | None, Option(help="Folder or hub id for the parts that the file lacks.")] = None,
    config: ConfigFile = None,
    settings: Setting = None,
) -> Result:
    """Turn a checkpoint of the authors' code into a run that `sample` takes."""
    require_source(source, "SOURCE", what="file")
    if backbone is not None:
        require_source(backbone, "--backbone")
    chosen = load_settings(config or "sd15-paper", settings)
    quiet()
    return api.import_(source=source, out=out, backbone=backbone, config=chosen)


@command(app, goes_on=True)
def export(
    out: Annotated[
        Path | None, Option(help="Folder to write; a file for original.", parser=to_write, metavar="PATH")
    ] = None,
    checkpoint: Annotated[str | None, Option(help="A finished run of `train` or `import`.", metavar="RUN")] = None,
    network: Annotated[Path | None, Option(help="Or a finished run of `segment`.")] = None,
    to: Annotated[
        str | None,
        Option(help="Of a checkpoint: diffusers or original. Of a network: onnx, torchscript or safetensors."),
    ] = None,
    pixels: Annotated[str, Option(help="Of a network: its images are float32 in [0, 1], or uint8.")] = "float32",
    pairs: Annotated[Path | None, Option(help="With --push: a folder of drawn pairs, as a data set.")] = None,
    push: Annotated[
        str | None, Option(help="OWNER/NAME on the Hugging Face hub, to upload to; private.", metavar="REPO")
    ] = None,
    public: Annotated[bool, Option("--public", help="With --push: everybody may read it.")] = False,
    allow_flagged: Annotated[
        bool, Option("--allow-flagged", help="With --push: even with images that look like copies of training images.")
    ] = False,
) -> Result:
    """Write a run for other programs, or push it or drawn pairs to the hub."""
    if checkpoint is not None:
        require_source(checkpoint, "--checkpoint")
    require_there(network=network, pairs=pairs)
    quiet()
    return api.export(
        checkpoint=checkpoint,
        out=out,
        to=to,
        network=network,
        pixels=pixels,
        pairs=pairs,
        push=push,
        public=public,
        allow_flagged=allow_flagged,
    )


@command(app, "export-nnunet", goes_on=True)
def export_nnunet(
    data: Data,
    out: Out,
    name: Annotated[str, Option(help="Of nnU-Net's data set.")],
    synthetic: Annotated[list[Path] | None, Option(help="Folder of synthetic pairs; may be repeated.")] = None,
    id: Annotated[int, Option(help="Number of the data set; its twin with synthetic pairs has the next.")] = 501,
    folds: Annotated[int | None, Option(help="Folds of the real pairs; default: 1 with a list val, else 5.")] = None,
    config: ConfigFile = None,
    settings: Setting = None,
) -> Result:
    """Write pairs as nnU-Net's raw data sets: real, and real and synthetic, with the same folds."""
    chosen = load_settings(config, settings)
    return api.export_nnunet(data=data, out=out, name=name, synthetic=synthetic, id=id, folds=folds, config=chosen)


@command(data_app, "list")
def list_data() -> Shown:
    """The data sets that can be fetched, their size and their licence."""
    from siamese_diffusion.data.fetch.get import render_list

    return Shown(api.list_data(), render_list())


@command(data_app, "get", goes_on=True)
def get_data(
    name: Annotated[str, Argument(help="One of `data list`.")],
    out: Out,
    accept_licence: Annotated[bool, Option("--accept-licence", help="Accept the terms without a question.")] = False,
    archive: Annotated[
        list[Path] | None,
        Option(help="A file or unpacked folder to take instead; may be repeated."),
    ] = None,
    keep: Annotated[bool, Option("--keep", help="Keep the archives in OUT.downloads.")] = False,
) -> Shown:
    """Fetch a data set and unpack it into a folder of pairs."""
    result = api.get_data(name=name, out=out, accept_licence=accept_licence, archives=archive or [], keep=keep)
    return Shown(result, f"{result['pairs']} pairs in {out}; `siamese-diffusion check {out}` reads every file")


@command(rate_app, "export", goes_on=True)
def export_ratings(
    real: Annotated[Path, Option(help="Folder of real pairs or images.")],
    synthetic: Annotated[list[Path], Option(help="Folder of synthetic pairs or images; may be repeated.")],
    out: Out,
    count: Annotated[int, Option(help="Images drawn from each folder.")] = 30,
    seed: Annotated[int, Option(help="Of the draw; the order and the names are never derived from it.")] = 0,
    resolution: Annotated[int | None, Option(help="Side of every image; default: the smallest among them.")] = None,
    split: Annotated[str | None, Option(help="List of the real folder's splits.json; default: all images.")] = None,
) -> Result:
    """Make the page that readers open and the key that stays with you."""
    return api.export_ratings(
        real=real, synthetic=synthetic, out=out, count=count, seed=seed, resolution=resolution, split=split
    )


@command(rate_app, "score")
def score_ratings(
    files: Annotated[list[Path], Argument(help="Files that the readers saved.")],
    key: Annotated[Path, Option(help="key.json of `rate export`.")],
    out: Annotated[
        Path | None, Option(help="Folder for scores.json and ratings.csv.", parser=to_write, metavar="PATH")
    ] = None,
) -> Shown:
    """Mean opinion scores, real-or-synthetic accuracy and agreement of the readers."""
    from siamese_diffusion.reader_study.rating import render_scores

    scores = api.score_ratings(files=files, key=key, out=out)
    return Shown(scores, render_scores(scores))


def main() -> None:
    """Run the command line."""
    try:
        with undisguised():
            app()
    except KeyboardInterrupt:  # before a command began; from then on `console.run` says how to go on
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        distributed = sys.modules.get("torch.distributed")  # not imported for commands that do without torch
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # joins its threads, which else may abort the process as it ends

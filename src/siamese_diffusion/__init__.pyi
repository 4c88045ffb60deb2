from siamese_diffusion.config import Config as Config
from siamese_diffusion.config import load_config as load_config
from siamese_diffusion.data.check import check as check
from siamese_diffusion.data.fetch.get import get_data as get_data
from siamese_diffusion.data.fetch.get import list_data as list_data
from siamese_diffusion.data.phantom import make_phantoms as phantoms
from siamese_diffusion.data.prepare import prepare as prepare
from siamese_diffusion.demonstration import demo as demo
from siamese_diffusion.diffusion.original import import_ as import_
from siamese_diffusion.diffusion.original import load_original as load_original
from siamese_diffusion.diffusion.pretrain import pretrain as pretrain
from siamese_diffusion.diffusion.sample import sample as sample
from siamese_diffusion.diffusion.siamese import SiameseDiffusion as SiameseDiffusion
from siamese_diffusion.diffusion.train import train as train
from siamese_diffusion.evaluation.evaluate import evaluate as evaluate
from siamese_diffusion.evaluation.filter import filter_ as filter
from siamese_diffusion.exporting import export as export
from siamese_diffusion.job import run as run
from siamese_diffusion.mask_training import train_masks as train_masks
from siamese_diffusion.reader_study.rating import export_ratings as export_ratings
from siamese_diffusion.reader_study.rating import score_ratings as score_ratings
from siamese_diffusion.run_status import status as status
from siamese_diffusion.segmentation.nnunet import export_nnunet as export_nnunet
from siamese_diffusion.segmentation.predict import predict as predict
from siamese_diffusion.segmentation.segment import segment as segment
from siamese_diffusion.segmentation.trained import load_network as load_network
from siamese_diffusion.studies.study import study as study
from siamese_diffusion.webapp.app import app as app

__all__ = [
    "Config",
    "SiameseDiffusion",
    "app",
    "check",
    "demo",
    "evaluate",
    "export",
    "export_nnunet",
    "export_ratings",
    "filter",
    "get_data",
    "import_",
    "list_data",
    "load_config",
    "load_network",
    "load_original",
    "phantoms",
    "predict",
    "prepare",
    "pretrain",
    "run",
    "sample",
    "score_ratings",
    "segment",
    "status",
    "study",
    "train",
    "train_masks",
]
__version__: str

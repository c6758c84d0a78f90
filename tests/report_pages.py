"""A small data set whose tags and paths would break a careless page, evaluations of it, and their pages."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from socialtag_jax import evaluation_report
from socialtag_jax.config import Suggestion
from socialtag_jax.evaluate import Evaluation, Scorer
from socialtag_jax.report import comparison_page, evaluation_files
from socialtag_jax.report.evaluation_page import Training, evaluation_page
from socialtag_jax.report.training_curves import TrainingCurves
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.tags import TagVocabulary
from tests.evaluations import evaluation_of, written_dataset

HOSTILE = '</script><img src=x onerror="document.title=1">'
PATH = '"><script>document.title=2</script>.jpg'
TAGS = (HOSTILE, "{{ 7*7 }}", "beach", "sea", "日本", *(f"tag{number}" for number in range(75)))
IMAGES = 40


def hostile_dataset(folder: Path) -> Dataset:
    """Its fourth test photo has no tags, the others four each."""
    rng = np.random.default_rng(0)
    labels = [sorted(rng.choice(len(TAGS), 4, replace=False).tolist()) for _ in range(IMAGES)]
    labels[3] = []
    image_ids = [PATH, *(f"photos/{number:03d}.jpg" for number in range(1, IMAGES))]
    return written_dataset(folder / "tiny", TagVocabulary(TAGS, TAGS), labels, image_ids, labels)


def random_evaluation(dataset: Dataset, seed: int) -> Evaluation:
    """Of confidences of which some are sure, some not."""
    confidences = np.random.default_rng(seed).beta(0.3, 2.0, (IMAGES, len(TAGS))).astype(np.float32)
    return evaluation_of(dataset, confidences)


def page_of(dataset: Dataset, evaluation: Evaluation) -> str:
    """An evaluation's page, with two epochs of training."""
    training = Training(TrainingCurves([0.5, 0.4], [0.6, 0.5], [0.1, 0.2]), positive_weight=10.0)
    return evaluation_page(evaluation, dataset, training)


def two_saved(dataset: Dataset, folder: Path) -> tuple[Path, Path]:
    """The folders of two evaluations' files."""
    saved = folder / "a" / "test", folder / "b" / "test"
    for seed, target in enumerate(saved):
        scorer = Scorer("given", dataset.vocabulary, 32, Suggestion(), 1, lambda images: images, dataset.fingerprint)
        evaluation_report.write_results(random_evaluation(dataset, seed), dataset, scorer, target)
    return saved


def comparison_of(saved: Sequence[Path], dataset: Dataset) -> str:
    """The page that compares two saved evaluations."""
    first, second = (evaluation_files.find(folder, "test") for folder in saved)
    return comparison_page.comparison_page(first, second, dataset)

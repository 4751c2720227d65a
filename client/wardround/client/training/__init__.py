"""Private training at a site: patients as units, a bound that is tested, a fast engine."""

from wardround.client.training.conversion import to_group_norm
from wardround.client.training.data import TensorData, TrainingData
from wardround.client.training.engine import Engine
from wardround.client.training.evaluation import counters, evaluate
from wardround.client.training.plain import train_plain
from wardround.client.training.settings import RoundResult, StepReport, TrainingSettings
from wardround.client.training.shared_noise import check_shared_noise, noise_share
from wardround.client.training.trainer import expected_batch, train_round
from wardround.client.training.validation import validate

__all__ = [
    "Engine",
    "RoundResult",
    "StepReport",
    "TensorData",
    "TrainingData",
    "TrainingSettings",
    "check_shared_noise",
    "counters",
    "evaluate",
    "expected_batch",
    "noise_share",
    "to_group_norm",
    "train_plain",
    "train_round",
    "validate",
]

"""The networks: any timm model, plus two that timm lacks, with the initialisation of the published recipes."""

from gsam.models.build import ModelConfig, build_model, check
from gsam.models.init import InitScheme
from gsam.models.weights import load_weights, split_ending

__all__ = ["InitScheme", "ModelConfig", "build_model", "check", "load_weights", "split_ending"]

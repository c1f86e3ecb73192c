"""Every setting: its type, meaning, unit and range. The values live in conf/, one YAML for each option.

A group (model, data, training, sampler, logger) comes in several kinds; `kind` (of samplers and loggers `name`) says which
class a configuration belongs to. No setting has a default here.

    fields      what one setting is          model, data, training, posterior, sampler   one module a group
    runtime     what changes no number       launcher                                    where the work is done
    whole       everything together          options                                     conf/ and its options
    hydra_glue  where Hydra and OmegaConf end
"""

from lambda_hat.config.data import Data, Digits, FileData, ModularAddition, Sequences, SingleFeatures, TeacherData
from lambda_hat.config.fields import setting
from lambda_hat.config.model import (
    ACTIVATIONS,
    INITS,
    MLP,
    Analytic,
    Custom,
    DeepLinear,
    Model,
    Monomial,
    Network,
    NormalCrossing,
    Quadratic,
)
from lambda_hat.config.options import conf_directory
from lambda_hat.config.posterior import Posterior
from lambda_hat.config.runtime import (
    Logger,
    MLflow,
    Request,
    Resources,
    Runtime,
    Store,
    TensorBoard,
    WandB,
)
from lambda_hat.config.sampler import HMC, MCLMC, SGLD, Drawing, Laplace, Sampling
from lambda_hat.config.training import Descent, FromTeacher, Given, Training
from lambda_hat.config.whole import HASHED, KINDS, Config, check, problems, range_problems

__all__ = [
    "ACTIVATIONS",
    "HASHED",
    "HMC",
    "INITS",
    "KINDS",
    "MCLMC",
    "MLP",
    "SGLD",
    "Analytic",
    "Config",
    "Custom",
    "Data",
    "DeepLinear",
    "Descent",
    "Digits",
    "Drawing",
    "FileData",
    "FromTeacher",
    "Given",
    "Laplace",
    "Logger",
    "MLflow",
    "Model",
    "ModularAddition",
    "Monomial",
    "Network",
    "NormalCrossing",
    "Posterior",
    "Quadratic",
    "Request",
    "Resources",
    "Runtime",
    "Sampling",
    "Sequences",
    "SingleFeatures",
    "Store",
    "TeacherData",
    "TensorBoard",
    "Training",
    "WandB",
    "check",
    "conf_directory",
    "problems",
    "range_problems",
    "setting",
]

"""Corel5K in a quarter of an hour on two CPU cores: small images, the head only, no augmentation.

Command:  socialtag train experiments/corel5k_quick.py --dataset data/corel5k/1.0.0 --workdir runs/corel5k_quick
"""

from socialtag_jax.config import Augmentation, Checkpoints, Experiment, Model, Optimizer, Stage

experiment = Experiment(
    name="corel5k_quick",
    model=Model(input_size=64),
    augmentation=Augmentation(enabled=False),
    optimizer=Optimizer(learning_rate=1e-3),
    stages=(Stage(epochs=8, freeze_layers=19),),
    checkpoints=Checkpoints(monitor="f1"),
)

"""Postcards, the built-in demo.

Command:  socialtag train experiments/postcards.py --dataset data/postcards/1.0.0 --workdir runs/postcards
"""

from socialtag_jax.config import Augmentation, Experiment, Model, Optimizer, Stage

experiment = Experiment(
    name="postcards",
    model=Model(input_size=64),
    augmentation=Augmentation(enabled=False),
    optimizer=Optimizer(learning_rate=1e-3),
    stages=(Stage(epochs=7, freeze_layers=19),),
)

"""Postcards, the built-in demo.

Command:  socialtag train experiments/postcards.py --dataset data/postcards/1.0.0 --workdir runs/postcards
Hardware: 2 cores of an AMD EPYC, no GPU
Rate:     60 images/s for the features, then 10,000 images/s; half a minute in all (measured)
Expect:   test F1 0.425 (always the 5 most frequent tags: 0.254; the 15 most frequent: 0.288) (measured)
"""

from socialtag_jax.config import Augmentation, Cache, Experiment, Model, Optimizer, Stage

experiment = Experiment(
    name="postcards",
    model=Model(input_size=64),
    augmentation=Augmentation(enabled=False),
    cache=Cache(views=1),
    optimizer=Optimizer(learning_rate=1e-3),
    stages=(Stage(epochs=8, freeze_layers=19),),
)

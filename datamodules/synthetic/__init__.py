"""A corpus of short pieces made in code from a seed, each with the attributes that made it and a caption.

score = compose(bpm=112, duration=4.0, key="D minor", rng=rng)                        composition.py
wav = render(score, "bell", tonic=62, duration=4.0, sample_rate=16000)                 instruments.py
texts = captions(attributes)                                                           captions.py
write_corpus(folder, make_corpus(num_pieces=432, seed=0))                              corpus.py
"""

from datamodules.synthetic.captions import captions
from datamodules.synthetic.composition import Note, Score, compose, split_of
from datamodules.synthetic.corpus import CLASSES, Piece, make_corpus, make_piece, plan_piece, write_corpus
from datamodules.synthetic.instruments import INSTRUMENTS, render

__all__ = [
    "CLASSES",
    "INSTRUMENTS",
    "Note",
    "Piece",
    "Score",
    "captions",
    "compose",
    "make_corpus",
    "make_piece",
    "plan_piece",
    "render",
    "split_of",
    "write_corpus",
]

"""A world of drawn objects with captions and edits, to train and evaluate `vista-tiny`.

    python -m pipelines.drawings FOLDER [--seed 0] [--train 36000]

writes `FOLDER/train`, `FOLDER/eval/cir` and `FOLDER/eval/t2i` in less than half a minute. The same arguments give the
same bytes, with the same versions of Pillow and pyarrow.

**There are no natural images in it.** A model that is trained on it knows these ten shapes, these eight colours and the
words of `words.py`, and nothing else. It is made for demonstrations and tests: it shows that training, search and
evaluation work.

Scenes (`scenes.py`, `pen.py`). A scene is one to four equal objects on a background: 10 shapes, 8 colours, 4 patterns,
2 sizes, 5 places, and one of the other 7 colours behind them. That makes 71,680 scenes, each with exactly one picture
of 96 x 96 pixels. Three or four large objects are always in the centre. Small objects are 25 pixels wide. Large ones
are 40 pixels wide, and a single one in the centre 72.

Texts (`words.py`). A caption names some attributes of a scene, and describes every scene that has these. "a" and "one"
name the number, but a noun without an article does not: "red star" also describes two striped red stars. An instruction
names what changes from one scene to another: mostly one attribute, sometimes two.

Training (`training.py`, the layout of VISTA-S2). Scenes come in families: one scene, and eleven that each differ from
it in one attribute. With `--train 36000` there are 72,000 records of each kind, of some 22,650 pictures (29 MB).

    t2i.jsonl             A caption finds an image. Half of the captions name every attribute. No hard negatives.
    edit_image.jsonl      Image and instruction find an image. Three hard negatives: the image of the query itself,
                          another edit of it, and one like the target.
    t2it.jsonl            A caption finds an image with a text. One to three hard negatives, which differ from the
                          positive in one attribute that the caption names. Half of the texts are empty, so that texts
                          learn to find images alone. A quarter hold for all candidates of the record, so they don't
                          give the answer away. A quarter describe the candidate itself, as in real catalogs.
    images.tar.part00     The PNGs. Records name them `images/SCENE.png`.

Evaluation (`evaluation.py`, the layout of MTEB). One in five combinations of shape, colour and pattern is held out, by
its hash. No scene of a training record has such a combination, so no caption there describes one. In the evaluation,
the scenes of all queries and all that are relevant have one. Both tasks have the same corpus of about 2,000 pictures:
scenes that are held out, and for each of them 24 that differ from it in an attribute or two, held out or not. All
pictures that fit a query are relevant. The picture of a query is in the corpus and is not relevant.

    cir     640 queries, image and instruction. One picture is relevant.
    t2i     640 captions that name shape, colour, pattern, and up to four further attributes.

Chance: the mean share of pictures that are relevant is 0.05 % for `cir` and 0.33 % for `t2i` (seed 0). So one of five
random pictures is relevant for 0.25 % and 1.6 % of the queries. A model that knew every picture, but looked at only one
part of the query, would reach hit rates at 1 and 5 of 0 and 14 % (image only) or 1 and 5 % (text only) for `cir`.
"""

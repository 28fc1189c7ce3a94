"""GenEval: whether a picture has the objects, numbers, colours and positions of its prompt.

    geneval/tasks.py        what each prompt of evaluation_metadata.jsonl asks for
    geneval/rule.py         objects that were found in a picture -> right or wrong
    geneval/detector.py     picture -> objects, by a model of transformers
    geneval/colours.py      the colours of objects, by CLIP
    geneval/figures.py      pictures -> the share that is right, by tag

The rules and numbers are those of the paper and of its public evaluation script; docs/metrics.md
lists what differs.

References:
    Ghosh, Hajishirzi, Schmidt. GenEval: An Object-Focused Framework for Evaluating Text-to-Image
        Alignment. 2023. https://arxiv.org/abs/2310.11513
"""

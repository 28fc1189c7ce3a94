"""DPG-Bench: questions about a picture of a dense prompt, answered by a model.

    dpg/questions.py        the prompts, and the questions about each
    dpg/rule.py             answers -> which questions count
    dpg/answers.py          picture and question -> yes or no, by a model of transformers
    dpg/figures.py          pictures -> the share of questions that count, and by category

The rules are those of the paper and of its public evaluation script; docs/metrics.md lists what
differs.

References:
    Hu, Wang, Fang, Fu, Cheng, Yu. ELLA: Equip Diffusion Models with LLM for Enhanced Semantic
        Alignment. 2024. https://arxiv.org/abs/2403.05135
    Cho, Hu, Garg, Anderson, Krishna, Baldridge, Bansal, Pont-Tuset, Wang. Davidsonian Scene Graph.
        2023. https://arxiv.org/abs/2310.18235 (questions that depend on others)
"""

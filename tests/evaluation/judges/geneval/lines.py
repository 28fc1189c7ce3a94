"""One line of each kind of GenEval's tasks, as its script writes them."""

LINES = [
    {
        "tag": "single_object",
        "include": [{"class": "bench", "count": 1}],
        "prompt": "a photo of a bench",
    },
    {
        "tag": "two_object",
        "include": [{"class": "bench", "count": 1}, {"class": "tv remote", "count": 1}],
        "prompt": "a photo of a bench and a tv remote",
    },
    {
        "tag": "counting",
        "include": [{"class": "clock", "count": 2}],
        "exclude": [{"class": "clock", "count": 3}],
        "prompt": "a photo of two clocks",
    },
    {
        "tag": "colors",
        "include": [{"class": "car", "count": 1, "color": "blue"}],
        "prompt": "a photo of a blue car",
    },
    {
        "tag": "position",
        "include": [
            {"class": "cup", "count": 1},
            {"class": "dog", "count": 1, "position": ["right of", 0]},
        ],
        "prompt": "a photo of a dog right of a cup",
    },
    {
        "tag": "color_attr",
        "include": [
            {"class": "cup", "count": 1, "color": "red"},
            {"class": "horse", "count": 1, "color": "white"},
        ],
        "prompt": "a photo of a red cup and a white horse",
    },
]

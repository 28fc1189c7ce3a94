"""Pictures side by side: a row a model or program, a column a prompt."""

from PIL import Image, ImageDraw, ImageFont

GAP, LEFT, TOP = 6, 170, 34  # pixels
WORDS = 90  # the width that a prompt needs


def sheet(
    rows: list[tuple[str, str, list[Image.Image]]], prompts: list[str], side: int = 96
) -> Image.Image:
    """Put pictures on a page.

    Args:
        rows: a name, what is written below it, and as many pictures as there are prompts.
        prompts: the columns; what follows the last comma is left out.
        side: width and height of a picture on the page, in pixels.
    """
    step = max(side, WORDS) + GAP
    size = (LEFT + len(prompts) * step, TOP + len(rows) * (side + GAP))
    page = Image.new("RGB", size, "white")
    pen, bold, small = ImageDraw.Draw(page), ImageFont.load_default(14), ImageFont.load_default(11)
    for j, prompt in enumerate(prompts):
        words = prompt.split(", ")[0].split()
        half = -(-len(words) // 2)
        pen.multiline_text(
            (LEFT + j * step, 4),
            "\n".join(" ".join(part) for part in (words[:half], words[half:]) if part),
            fill="#333",
            font=small,
        )
    for i, (name, title, pictures) in enumerate(rows):
        top = TOP + i * (side + GAP)
        pen.text((6, top + side // 2 - 26), name, fill="#111", font=bold)
        pen.multiline_text((6, top + side // 2 - 6), title, fill="#555", font=small)
        for j, picture in enumerate(pictures):
            page.paste(
                picture.resize((side, side), Image.Resampling.LANCZOS),
                (LEFT + j * step, top),
            )
    return page

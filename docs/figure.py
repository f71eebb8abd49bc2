"""Draw the README's figure: one scene as both models see it, and what they answer.

``python docs/figure.py`` writes docs/figure.png; it needs `egptlib make-data streets`.
"""

import io
from pathlib import Path

from PIL import Image

from egptlib.figures import scene_figure
from egptlib.models import load_pair
from egptlib.scenes import open_scenes


def main() -> None:
    """Take the first test scene with a question that both models answer alike, and write the picture."""
    pair = load_pair("mini")
    prompts = ((scene, q) for scene in open_scenes("streets", split="test", event_views=5) for q in scene.questions)
    for scene, question in prompts:
        drafted, right = (model.greedy(scene, question, 50).text for model in (pair.drafter, pair.target))
        if drafted == right and len(right.split()) > 8:  # a sentence, no word
            break
    truth = dict(zip(scene.questions, scene.answers or ())).get(question)
    buffer = io.BytesIO()
    scene_figure(scene, question, drafted, right, truth).savefig(buffer, format="png", dpi=150)
    target = Path(__file__).with_suffix(".png")
    # 256 colours are enough for the pictures of streets, and half the size.
    Image.open(buffer).convert("RGB").quantize(256, kmeans=3).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

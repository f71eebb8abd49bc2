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
    """Take, of the first two test scenes, the question whose draft is accepted longest, and write the picture."""
    pair, longest = load_pair("mini"), 0
    for seen in open_scenes("streets", split="test", event_views=5).spread(2):
        for asked in seen.questions:
            answers = [model.greedy(seen, asked, 50) for model in (pair.drafter, pair.target)]
            drafts, tokens = (answer.token_ids.tolist() for answer in answers)
            accepted = next((i for i, (mine, own) in enumerate(zip(drafts, tokens)) if mine != own), len(drafts))
            if accepted / len(tokens) * min(accepted, 20) > longest:  # most of the answer, and a sentence
                longest = accepted / len(tokens) * min(accepted, 20)
                scene, question, (drafted, right) = seen, asked, (answer.text for answer in answers)
    truth = dict(zip(scene.questions, scene.answers or ())).get(question)
    buffer = io.BytesIO()
    scene_figure(scene, question, drafted, right, truth).savefig(buffer, format="png", dpi=150)
    target = Path(__file__).with_suffix(".png")
    # 256 colours are enough for the pictures of streets, and half the size.
    Image.open(buffer).convert("RGB").quantize(256, kmeans=3).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

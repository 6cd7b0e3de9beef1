"""`make bench`: every ratio with its goal. Figures of shared cores are noisy; compare ratios of one run only."""

from tests.bench import decode, score, train

if __name__ == "__main__":
    for row in [*decode.run(), *train.run(), *score.run()]:
        goal = row["goal"] if isinstance(row["goal"], str) else f">= {row['goal']:g}"
        print(f"{row['name']:45} {row['ratio']:7.3f}  (goal {goal})  {row['detail']}", flush=True)

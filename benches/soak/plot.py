"""Draws what the soak sampled: memory and deliveries a second over time.

usage: plot.py SAMPLES.json PICTURE.png        (needs matplotlib)
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(samples_path: str, picture_path: str) -> None:
    with open(samples_path, encoding="utf-8") as file:
        samples = json.load(file)
    seconds, memory, deliveries, _cpu = zip(*samples["rows"])
    minutes = [second / 60 for second in seconds]
    rate = [
        (deliveries[i] - deliveries[i - 5]) / (seconds[i] - seconds[i - 5])
        for i in range(5, len(seconds))
    ]
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(9, 5), layout="constrained")
    figure.suptitle(samples["setting"], fontsize=9)
    upper.plot(minutes, memory, linewidth=1)
    upper.set_ylabel("resident memory, MB")
    upper.set_ylim(bottom=0)
    lower.plot(minutes[5:], rate, linewidth=1, color="tab:green")
    lower.set_ylabel("deliveries/s")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("minutes")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.savefig(picture_path, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])

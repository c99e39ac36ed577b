"""Draws the dashboard's panels of the recorded bad day for the docs. Run by hand, after the test that records it:

    cargo test --test kafka bad_day
    python3 -m venv target/tools/plots && target/tools/plots/bin/pip install matplotlib==3.10.7
    target/tools/plots/bin/python deploy/tests/panels.py
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = pathlib.Path(__file__).resolve().parents[2]
DAY = ROOT / "target/tmp/bad-day"
IMAGES = ROOT / "docs/images"
# Panel id in dashboard.json, and the picture's name.
PANELS = {18: "attempts", 21: "circuits", 27: "put-off", 28: "dead-letters", 32: "integrations"}


def read(name: str):
    path = DAY / name
    if not path.exists():
        sys.exit(f"{path.relative_to(ROOT)} is not there; run `cargo test --test kafka bad_day` first")
    return json.loads(path.read_text())


def legend(text: str, labels: dict) -> str:
    for label, value in labels.items():
        text = text.replace("{{" + label + "}}", value)
    return text


def figure(day: dict, title: str, height: float):
    drawing, axes = plt.subplots(figsize=(7.5, height), dpi=90, layout="constrained")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("seconds since the first scrape", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_xlim(0, day["end"] - day["begin"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x" if height < 2.5 else "both", alpha=0.25)
    last = 0
    for mark in day["marks"]:
        at = mark["at"] - day["begin"]
        if at - last < 3:
            continue  # two labels on each other say nothing
        last = at
        axes.axvline(at, color="0.45", linewidth=0.8, linestyle=":")
        axes.annotate(mark["what"], (at, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize=6.5, color="0.35",
                      ha="right", va="top", xytext=(-1, -1), textcoords="offset points")
    return drawing, axes


def save(drawing, name: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"bad-day-{name}.png"
    drawing.savefig(path)
    plt.close(drawing)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")


def panel(day: dict, number: int, name: str) -> None:
    found = read(f"panel-{number}.json")
    unit = {"ops": "per second", "reqps": "per second", "cps": "per second"}.get(found["unit"], "")
    drawing, axes = figure(day, found["title"] + (f" ({unit})" if unit else ""), 2.6)
    for target in found["targets"]:
        for series in target["series"]:
            points = [(at - day["begin"], float(value)) for at, value in series["values"]]
            if any(value > 0 for _, value in points):
                axes.plot(*zip(*points), label=legend(target["legend"] or found["title"], series["metric"]), linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="upper left", framealpha=0.9, bbox_to_anchor=(1, 1))
    save(drawing, name)


def alerts(day: dict) -> None:
    fired = {}
    for series in read("alerts.json"):
        seconds = fired.setdefault(series["metric"]["alertname"], set())
        seconds.update(at - day["begin"] for at, _ in series["values"] if at > day["begin"])
    fired = {name: seconds for name, seconds in fired.items() if seconds}
    names = sorted(fired, key=lambda name: min(fired[name]), reverse=True)
    drawing, axes = figure(day, "Alerts that fire", 0.9 + 0.25 * len(names))
    for row, name in enumerate(names):
        axes.broken_barh([(at, 1) for at in sorted(fired[name])], (row - 0.35, 0.7), color="tab:red")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    save(drawing, "alerts")


def main() -> None:
    day = read("day.json")
    # Prometheus knows nothing before it has scraped a worker.
    day["begin"] = min(at for series in read("panel-2.json")["targets"][0]["series"] for at, _ in series["values"])
    alerts(day)
    for number, name in PANELS.items():
        panel(day, number, name)


main()

"""See the experiment think: python live_view.py [endpoint] [--save live.png].

The frame as recorded and denoised, the volume as it grows, and the necks measured so far, from the
monitor stream alone. With --save the picture is written again and again instead of shown.
"""

import argparse
import json
import time

import matplotlib as mpl
import numpy as np
import zmq

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("endpoint", nargs="?", default="tcp://127.0.0.1:5571")
parser.add_argument("--save", metavar="PNG", help="write a picture, open no window")
asked = parser.parse_args()
if asked.save:
    mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend is chosen first

socket = zmq.Context().socket(zmq.SUB)
socket.connect(asked.endpoint)
for topic in ("preview/", "result/denoised", "result/preview_", "result/slice_", "result/necks"):
    socket.subscribe(topic)

figure, panels = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
titles = ("recorded", "denoised", "volume from above", "neck / particle radius")
for panel, title in zip(panels, titles, strict=True):
    panel.set_title(title)
for panel in panels[:3]:
    panel.set_axis_off()
images, necks = {}, {}


def show(panel, image, title):
    """Put an image into a panel; the grey values follow it."""
    if panel not in images or images[panel].get_array().shape != image.shape:
        images[panel] = panel.imshow(image, cmap="gray")
    images[panel].set_data(image)
    images[panel].set_clim(np.percentile(image, 1), np.percentile(image, 99.8))
    panel.set_title(title)


def take(topic, head, payload):
    """Draw one message."""
    values = np.frombuffer(payload[0], head["dtype"]).reshape(head["shape"])
    series = head["series"]
    if topic.startswith("preview/"):
        show(panels[0], values, f"{series}, {head['tilt_deg']:+.0f} deg")
    elif head["name"] == "denoised":
        binning = -(-max(values.shape) // 256)
        rows, columns = (side // binning * binning for side in values.shape)
        small = values[:rows, :columns].reshape(rows // binning, binning, -1, binning)
        show(panels[1], small.mean(axis=(1, 3)), f"denoised, {head['staleness_s']:.1f} s later")
    elif head["name"] in ("preview_z", "slice_z"):
        what = f"{head['parameters']['views']} views" if "preview" in head["name"] else "final"
        show(panels[2], values, f"{series}, {what}")
    elif head["name"] == "necks":
        ratio = head["parameters"].get("neck_ratio_median")
        if ratio is not None:
            necks[series] = ratio
        panels[3].plot(range(1, len(necks) + 1), list(necks.values()), "o-", color="tab:red")
        panels[3].set(xlabel="series", title="neck / particle radius")


drawn_s = 0.0
while True:
    if socket.poll(100):
        topic, header, *payload = socket.recv_multipart()
        take(topic.decode(), json.loads(header), payload)
    if time.monotonic() - drawn_s < 0.5:
        continue
    drawn_s = time.monotonic()
    if asked.save:
        figure.savefig(asked.save, dpi=80)
    else:
        plt.pause(0.01)

"""Watch a running experiment with plain pyzmq: python subscriber.py [endpoint]."""

import json
import sys

import zmq

socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5571")
for topic in ("telemetry/heater", "preview/"):
    socket.subscribe(topic)
while True:
    _, header, *payload = socket.recv_multipart()
    head = json.loads(header)
    text = f"{head['seq']:6} temperature {head.get('values', head)['temperature_c']:7.2f} degC"
    if payload:  # a preview: 8 bits a pixel
        text += f" {head['series']}[{head['index']}] at {head['tilt_deg']:+.2f} deg {head['shape']}"
        text += f" from {min(payload[0])} to {max(payload[0])}"
        text += f", mean {sum(payload[0]) / len(payload[0]):.1f}"
    print(text, flush=True)

"""Watch a running experiment with plain pyzmq: python subscriber.py [endpoint]"""
import json, sys, zmq  # noqa: E401

socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5571")
for topic in (b"telemetry/heater", b"preview/"):
    socket.subscribe(topic)
while True:
    topic, header, *payload = socket.recv_multipart()
    head = json.loads(header)
    if head["type"] == "telemetry":
        print(f"{head['seq']:6} temperature {head['values']['temperature_c']:7.2f} degC", flush=True)
    else:
        pixels = payload[0]  # 8 bits a pixel
        print(f"{head['seq']:6} {head['series']}[{head['index']}] {head['shape']} at "
              f"{head['tilt_deg']:+.2f} deg: min {min(pixels)} max {max(pixels)} "
              f"mean {sum(pixels) / len(pixels):.1f}", flush=True)

"""A kit that computes nothing: it speaks the protocol, or misbehaves as the option `fault` of its load says."""

import json
import shutil
import sys

print("libraries talk", file=sys.stderr)
for line in sys.stdin:
    message = json.loads(line)
    match message["do"]:
        case "load":
            loaded = message
            answer = {"ready": True, "parameters": 7, "versions": {"fake": "1.0"}, "device": "cpu"}
        case "open":
            loaded, answer = {"fault": None}, {"ready": True, "decoding_share": len(message["pairs"]) / 10}
        case "stop":
            if loaded["fault"] != "stays":
                break
        case "logits":
            shutil.copy(loaded["logits"], message["path"])
            answer = {"path": message["path"]}
        case "memory":
            answer = {"peak_bytes": 2**20}
        case _:
            answer = {"seconds": 0.5, "loss": 1.0}
            match loaded["fault"]:
                case "dies":
                    raise SystemExit("out of luck")
                case "rubbish":
                    answer = "hello"
                case "error":
                    answer = {"error": "no\nmemory"}
                case "nan":
                    answer = {"seconds": float("nan")}
    print(json.dumps(answer), flush=True)

"""Run the service and its MQTT outlet in the container of a Home Assistant add-on.

The paths are those of Home Assistant: `/data` is kept, `/config` is the folder `addon_configs` that users edit, and the
supervisor answers at `http://supervisor`. Needs the standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

DATA = Path(os.environ.get("ADDON_DATA", "/data"))
CONFIG = Path(os.environ.get("ADDON_CONFIG", "/config"))
SUPERVISOR = os.environ.get("ADDON_SUPERVISOR", "http://supervisor")
EXAMPLE = Path(__file__).with_name("service.yaml")
EVENTS = "tcp://127.0.0.1:5555"
END_S = 5.0


def main() -> int:
    """Start both processes; end the other one when one ends. Return the exit code."""
    options = json.loads((DATA / "options.json").read_text())
    config = CONFIG / options["config"]
    if not config.exists():
        shutil.copyfile(EXAMPLE, config)
        print(f"{config.name} was created in the folder of this add-on. Edit it, and start the add-on again.")
        return 1
    environment = dict(os.environ, STREAMCLF_LOG=options["log_level"])
    environment |= {each["name"]: each["value"] for each in options.get("environment", [])}
    environment.pop("SUPERVISOR_TOKEN", None)
    (DATA / "cache").mkdir(exist_ok=True)
    commands = [["run", str(config)]]
    broker = broker_of(options)
    if broker is None:
        print("No MQTT broker: Home Assistant shows no entities. Install the add-on Mosquitto, or set mqtt_broker.")
    else:
        address, user, password = broker
        commands.append(["mqtt", EVENTS, address, "--position", str(DATA / "mqtt.position")])
    processes: list[subprocess.Popen[bytes]] = []
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for command in commands:
        own = dict(environment)
        if command[0] == "mqtt" and user:
            own |= {"STREAMCLF_MQTT_USER": user, "STREAMCLF_MQTT_PASSWORD": password}
        processes.append(subprocess.Popen(["streamclf", *command], env=own))
    while not stopping and all(process.poll() is None for process in processes):
        time.sleep(0.2)
    ended = [process.returncode for process in processes if process.returncode is not None]
    for process in reversed(processes):
        process.terminate()
    end_s = time.monotonic() + END_S
    while any(process.poll() is None for process in processes) and time.monotonic() < end_s:
        time.sleep(0.05)
    for process in processes:
        process.kill()  # does nothing to a process that has ended
        process.wait()
    return 0 if stopping and not ended else max(1, *ended)


def broker_of(options: dict[str, str]) -> tuple[str, str, str] | None:
    """Return address, user and password of the broker: from the options, else from Home Assistant's supervisor."""
    if options.get("mqtt_broker"):
        return options["mqtt_broker"], options.get("mqtt_user", ""), options.get("mqtt_password", "")
    request = urllib.request.Request(f"{SUPERVISOR}/services/mqtt")  # noqa: S310 - the scheme is http
    request.add_header("Authorization", f"Bearer {os.environ.get('SUPERVISOR_TOKEN', '')}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            found = json.load(answer)["data"]
    except (OSError, ValueError, KeyError, urllib.error.URLError) as error:
        print(f"Home Assistant names no MQTT broker ({error}).")
        return None
    scheme = "mqtts" if found.get("ssl") else "mqtt"
    return f"{scheme}://{found['host']}:{found['port']}", found.get("username") or "", found.get("password") or ""


if __name__ == "__main__":
    sys.exit(main())

"""``pixelloom doctor``: what is installed, what the machine has, and how fast it is."""

from __future__ import annotations

from pixelloom.cli.console import say, say_json
from pixelloom.cli.options import Flag

_SECONDS = 10.0


def doctor(*, no_speed: Flag = False, json: Flag = False) -> None:
    """Report versions, extras, threads, devices, data folders and the speed of a small network on the CPU.

    Args:
        no_speed: Leave out the speed test, which takes about ten seconds.
        json: Print one JSON object.
    """
    from pixelloom.runs.doctor import report

    found = report(0.0 if no_speed else _SECONDS)
    if json:
        say_json(found)
        return
    threads, device, data, disk = (found[name] for name in ("threads", "device", "data", "disk"))
    limits = [f"OMP_NUM_THREADS={threads['omp_num_threads']}"] if threads["omp_num_threads"] else []
    limits += [f"quota {threads['quota']:g}"] if threads["quota"] else []
    lines = {name: value or "not installed" for name, value in found["versions"].items()}
    lines |= {
        "extras": ", ".join(name for name, there in found["extras"].items() if there) or "none",
        "not installed": ", ".join(
            f"{name} (pip install 'pixelloom[{name}]')" for name, there in found["extras"].items() if not there
        ),
        "threads": f"{threads['usable']} of {threads['cores']} cores{''.join(f', {limit}' for limit in limits)}",
        "training": f"{device['training']}, {device['precision']}",
        "devices": ", ".join([f"cpu ({device['cpu']})", *device["cuda"], *(["mps"] if device["mps"] else [])]),
        "data folders": ", ".join(data["folders"]),
        "data sets": ", ".join(data["found"]) or "none found; digits and shapes need no files",
        "free disk": f"{disk['free_bytes'] / 1e9:.1f} GB in {disk['folder']}",
    }
    if rates := found["speed"]:
        trained, fast, plain = (rates[f"{name}_images_per_second"] for name in ("training", "sampling", "plain_loop"))
        lines["speed test"] = rates["network"]
        lines["training passes, float32"] = f"{trained:.1f} images/s"
        lines["sampling"] = f"{fast:.2f} images/s, {fast / plain:.0f} times the plain loop ({plain:.3f} images/s)"
    width = max(map(len, lines))
    for name, value in lines.items():
        if value:
            say(f"{name:{width}}  {value}")
    for text in found["problems"]:
        say(f"problem: {text}")
    if not found["problems"]:
        say("no problems found")

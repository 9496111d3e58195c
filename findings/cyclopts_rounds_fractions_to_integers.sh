#!/usr/bin/env bash
# cyclopts 5.4.0: an option that is annotated `int` takes a fraction and rounds it, half to even, silently.
#
# One would expect "--n 2.5" to be refused, as argparse, click and typer refuse it. Here 2.5 becomes 2, 3.5 becomes 4, 0.49
# becomes 0,. "1e3" and "nan" are
# refused, so it is not any float that passes. Where options are counts (samples, epochs, a seed) the command runs with
# another number than the one that was typed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check cyclopts==5.4.0
"$work/venv/bin/python" - <<'PY'
import sys

import cyclopts

app = cyclopts.App()


@app.default
def main(*, n: int = 1):
    return n


def given(text):
    try:
        return app(["--n", text], exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CoercionError:
        return "refused"


found = {text: given(text) for text in ("2.5", "3.5", "64.5", "0.49", "9007199254740993.0", "1e3", "nan")}
print(f"cyclopts {cyclopts.__version__}")
for text, value in found.items():
    print(f"--n {text:20} -> {value}")
expected = list(found.values()) == [2, 4, 64, 0, 9007199254740992, "refused", "refused"]
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY

# Makes a bare checkout runnable offline:  . benchmarks/gpu/setup.sh
# Installs the wheels in .whl/, if there are any, beside the packages that python has, and puts src/ on its path.
# Sourced, because it exports PYTHONPATH; PYTHON names another interpreter than `python3`.

pixelloom_root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/../.." && pwd)
pixelloom_site=$pixelloom_root/build/gpu-packages

if ls "$pixelloom_root"/.whl/*.whl >/dev/null 2>&1; then
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --upgrade \
        --target "$pixelloom_site" "$pixelloom_root"/.whl/*.whl || return 1
fi
export PYTHONPATH=$pixelloom_root/src:$pixelloom_site${PYTHONPATH:+:$PYTHONPATH}
unset pixelloom_root pixelloom_site

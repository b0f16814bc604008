"""What a process loads when it starts: seconds and memory of everybody who starts one."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        pytest.param("rayapp.cli", ("ray", "torch", "mlflow", "pyarrow"), id="help"),
        pytest.param("serve_apps.llm", ("ray.serve.llm", "vllm", "torch"), id="language-gateway"),
        pytest.param("rayapp.serve.gateway", ("opentelemetry",), id="gateway-without-tracing"),
    ],
)
def test_what_is_not_needed_is_not_loaded(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.stdout == "[]\n", told.stderr

"""configs/weights/*.yaml: the weights of a language model, and where they come from."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rayapp.config.load import Config
from rayapp.schemas.language import Task


class PackageSource(Config):
    """Files inside an installed Python package, from which nothing is executed."""

    package: str
    """The module's name."""
    version: str
    path: str
    """Of a folder in Hugging Face's layout, or of one GGUF file."""


class WeightsConfig(Config):
    """jobs.add_weights: keep them in the workspace, by content, for engines to serve and for
    training to start from."""

    section = "weights"

    name: str = Field(pattern=r"^[a-z][a-z0-9._-]{0,99}$")
    """As engines and training configs call them."""
    task: Task = "generate"
    """`embed` for models that give vectors."""
    package: PackageSource | None = None
    folder: str | None = None
    """Instead of a package: a folder in Hugging Face's layout, with weights as safetensors, or a
    GGUF file."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the one file that holds the weights there; another one is refused. Required for a GGUF
    file."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What a GGUF file's numbers become; of a folder they stay as they are."""
    license: str = Field(min_length=1)
    """SPDX identifier, or the name that their maker gives."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.package is None) == (self.folder is None):
            raise ValueError("name one of `package` and `folder`")
        is_gguf = self.source_path.endswith(".gguf")
        if is_gguf and self.sha256 is None:
            raise ValueError("`sha256` of the GGUF file is needed")
        if is_gguf == (self.dtype is None):
            raise ValueError("`dtype` goes with a GGUF file, and only with one")
        return self

    @property
    def source_path(self) -> str:
        return self.folder or (self.package.path if self.package else "")

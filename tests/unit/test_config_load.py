"""YAML to a typed object: every mistake is one message with the line and the nearest key."""

import re
from pathlib import Path

import pytest

from rayapp.config import load as module
from rayapp.config import problems
from rayapp.config.language import LanguageConfig
from rayapp.config.load import Config, load
from rayapp.config.release import PolicyConfig
from rayapp.config.serving import ServeFile, ServingConfig
from rayapp.config.snapshot import HashSplits
from rayapp.config.training import TrainConfig
from rayapp.errors import ConfigError

GOOD = """\
name: trees
snapshot: configs/snapshots/x.yaml
family: tabular
features:
  - a
tabular:
  num_rounds: 10
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "train.yaml"
    path.write_text(text)
    return path


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    config = load(TrainConfig, _write(tmp_path, GOOD), ["tabular.num_rounds=50", "seed=9"])
    assert (config.family_config.num_rounds, config.seed) == (50, 9)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("num_rounds", "num_round"), "line 7: tabular.num_round: unknown key; did"),
        (
            GOOD.replace("family:", "familly:"),
            "line 3: familly: unknown key; did you mean 'family'",
        ),
        (GOOD.replace("num_rounds: 10", "num_rounds: many"), "line 7: tabular.num_rounds"),
        (GOOD.replace("name: trees\n", ""), "name: missing"),
        (GOOD + "num_workers: 2\n", "line 8: num_workers: unknown key; did you mean 'workers.num_"),
        (GOOD + "seed: 1\nseed: 2\n", "key 'seed' is already set on line 8"),
        (
            GOOD + "neural: {num_epochs: 1}\n",
            "line 8: `neural` has no effect with family 'tabular'",
        ),
        ("- a\n", "must hold keys and values, holds a list"),
        ("", "holds nothing"),
        ("a: [1\n", "not valid YAML"),
        ("a:\n\tb: 1\n", "line 2, column 1: a tab, YAML is indented with spaces\n     b: 1\n    ^"),
        ("a: &all [1, *all]\n", "line 1, column 4: this alias is inside of what it stands for"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(TrainConfig, _write(tmp_path, text))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ("trainin: {seed: 2}\n", "x.yaml: line 1: 'trainin' is no section of an environment; did"),
        ("1: {seed: 2}\n", "x.yaml: line 1: 1 is no section of an environment"),
        ("training: 3\n", "x.yaml: line 1: 'training' is no section of an environment, it must"),
        ("training:\n  sed: 2\n", "x.yaml line 2: sed: unknown key; did you mean 'seed'"),
        ("training:\n  seed: many\n", "x.yaml line 2: seed: must be a whole number"),
    ],
)
def test_a_mistake_in_an_overlay_is_named_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlay: str, expected: str
) -> None:
    monkeypatch.setattr(module, "ENVIRONMENTS", tmp_path)
    (tmp_path / "x.yaml").write_text(overlay)
    with pytest.raises(ConfigError) as caught:
        load(TrainConfig, _write(tmp_path, GOOD), environment="x")
    assert expected in str(caught.value)


LANGUAGE = """\
engines:
  one: {weights: tiny}
models:
  big:
    engine: one
"""


@pytest.mark.parametrize(
    ("cls", "text", "says"),
    [
        (
            PolicyConfig,
            "gates: {a: {kind: flor, metric: auc, limit: 1}}\n",
            "line 1: gates.a: `kind` is 'flor', must be one of floor, ceiling, champion, "
            "untuned, slices, gap, latency; did you mean 'floor'?",
        ),
        (PolicyConfig, "gates: {a: {metric: auc}}\n", "gates.a: `kind` is missing"),
        (
            TrainConfig,
            GOOD.replace("name: trees", "name: Tr ees"),
            "name: must be lower-case letters, digits and underscores, a letter first, got",
        ),
        (PolicyConfig, "confidence: high\ngates: {}\n", "confidence: must be a number, got"),
        (PolicyConfig, "gates: {a: 5}\n", "gates.a: must hold keys (column, kind, limit, "),
        (PolicyConfig, "gates: 5\n", "gates: must hold keys and values, got 5"),
        (TrainConfig, GOOD.replace("trees", "5"), 'name: must be text, got 5: write "5"'),
        (TrainConfig, GOOD + "workers: {use_gpu: 2}\n", "use_gpu: must be true or false, got 2"),
        (
            TrainConfig,
            GOOD.replace("\n  - a", " origin"),
            "features: must be a list, got 'origin': write [origin]",
        ),
        (TrainConfig, GOOD + "workers: 2\n", "workers: must hold keys ("),
        (
            ServingConfig,
            "endpoints:\n  delay:\n    fallback: {endpoint: other}\n",
            "line 3: endpoints.delay.fallback: must be a list, has keys: put `- ` before the first",
        ),
        (
            ServingConfig,
            "limits: {default: 5}\n",
            "limits.default: must hold keys (burst, requests_per_s), got 5",
        ),
        (
            ServingConfig,
            "limits:\n  tenants:\n    ACME Corp.: {requests_per_s: 1, burst: 1}\n",
            "line 3: limits.tenants: the name 'ACME Corp.': no tenant can have this name: it is",
        ),
        (
            ServingConfig,
            "tracing: {otlp_endpoint: 'localhost:4318'}\n",
            "tracing.otlp_endpoint: must be a URL that begins with http:// or https://, without",
        ),
        (ServingConfig, "endpoint: {}\n", "endpoint: unknown key; did you mean 'endpoints'?"),
        (
            ServingConfig,
            "endpoints:\n  delay:\n    placement: gpu\n",
            "line 3: `endpoints.delay.placement` 'gpu' is neither inline nor one of `pools`, of",
        ),
        (
            LanguageConfig,
            LANGUAGE + "    fallback:\n    - model: bg\n",
            "line 7: `models.big.fallback.0.model`: 'bg' is none of the others, []",
        ),
        (
            LanguageConfig,
            LANGUAGE + "  small: {engine: oen}\n",
            "line 6: `models.small.engine`: there is no engine 'oen', only ['one']",
        ),
    ],
)
def test_a_wrong_value_is_told_in_words(
    tmp_path: Path, cls: type[Config], text: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(cls, _write(tmp_path, text))
    assert says in str(caught.value)


def test_every_pattern_is_told_in_words() -> None:
    source = "".join(path.read_text() for path in Path("rayapp/config").glob("*.py"))
    found = set(re.findall(r'pattern=r"([^"]+)"', source))
    assert found
    assert found <= problems._PATTERNS.keys()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("applications.0.args.num_cpus=1", "`applications` is a list, and no override reaches"),
        (
            "args.num_cpus=1",
            "override 'args.num_cpus=1': args: unknown key; no override reaches "
            "`applications.0.args`, which is inside a list: edit the file",
        ),
    ],
)
def test_no_override_reaches_into_a_list(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(ServeFile, "configs/serving/gateway.yaml", [override])
    assert says in str(caught.value)


def test_an_overlay_reaches_its_own_kind_of_config_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENVIRONMENTS", tmp_path)
    (tmp_path / "x.yaml").write_text("training: {seed: 2}\nsweep: {budget_s: 9}\n")
    assert load(TrainConfig, _write(tmp_path, GOOD), environment="x").seed == 2
    with pytest.raises(ConfigError, match="override 'seed=many': seed"):
        load(TrainConfig, _write(tmp_path, GOOD), ["seed=many"], environment="x")


def test_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path, GOOD)
    with pytest.raises(ConfigError, match=r"did you mean .*train\.yaml"):
        load(TrainConfig, tmp_path / "trian.yaml")


@pytest.mark.parametrize("override", ["seed", "=1", "tabular.num_rounds=[", "sed=3"])
def test_bad_overrides(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        load(TrainConfig, _write(tmp_path, GOOD), [override])


def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    text = "tune_share: 0.75\ntest_share: 0.25\nkind: hash\n"
    with pytest.raises(ConfigError, match="line 1: `tune_share` and `test_share` are 1 together"):
        load(HashSplits, _write(tmp_path, text))

"""Golden items are found in training rows by Ray Data just as by hand, however the rows are cut."""

import json
from pathlib import Path

import pytest
import ray.data
from test_evaluate_golden import FEATURES, LONG, VIEW, config_of, found_in, said

from rayapp.config.golden import ContaminationConfig
from rayapp.data.golden import as_dataset, golden_rows, golden_table
from rayapp.errors import ContaminationRefused
from rayapp.evaluate.contamination import find_contamination, refuse_contaminated

pytestmark = pytest.mark.usefixtures("ray_local")
ITEMS = ["Name a lake.", "NAME a river", f"and {LONG} then", "short"]
TRAINING = [*(f"question {i}" for i in range(40)), "Name a river.", f"{LONG} 41", "shorter"]


def test_ray_finds_what_is_found_by_hand(tmp_path: Path) -> None:
    golden = config_of(tmp_path, [{"said": text, "answer": "x"} for text in ITEMS])
    items = golden_table(golden_rows(golden), VIEW[:1], VIEW, "answer", ())
    (tmp_path / "train").mkdir()
    for part in range(3):
        lines = [json.dumps({"said": text}) for text in TRAINING[part::3]]
        (tmp_path / "train" / f"{part}.jsonl").write_text("\n".join(lines))
    training = ray.data.read_json(str(tmp_path / "train"), file_extensions=["jsonl"])
    empty = ray.data.from_arrow(said())
    found, is_clean = find_contamination(items, FEATURES, [training, empty], ContaminationConfig())
    assert (found, is_clean) == found_in(ITEMS, TRAINING)
    assert is_clean == [True, False, False, True]
    with pytest.raises(ContaminationRefused, match="2 of 4 items occur in the 43 training rows"):
        refuse_contaminated(golden, found, len(items))
    assert as_dataset(items).count() == 4
